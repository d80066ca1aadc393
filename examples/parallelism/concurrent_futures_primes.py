"""The pool of the standard library, for comparison with `concurrent_actors_primes.py`."""

import concurrent.futures
import math
import time

NUMBERS = [
    2,
    1_099_726_899_285_419,
    112_272_535_095_293,
    112_582_705_942_171,
    115_280_095_190_773,
    115_797_848_077_099,
    999_999_000_001,
]


def is_prime(number: int) -> bool:
    if number % 2 == 0:
        return number == 2
    return all(number % divisor for divisor in range(3, math.isqrt(number) + 1, 2))


def main() -> None:
    began = time.perf_counter()
    with concurrent.futures.ProcessPoolExecutor() as pool:
        for number, prime in zip(NUMBERS, pool.map(is_prime, NUMBERS), strict=True):
            print(f'{number} is prime: {prime}')
    print(f'took {time.perf_counter() - began:.2f} s')


if __name__ == '__main__':
    main()
