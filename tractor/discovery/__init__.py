"""
Where actors are: addresses (`_addr`) and their text form (`_multiaddr`), the registrar
(`_registry`) and the lookups at it (`_api`).
"""

from tractor.discovery._multiaddr import mk_maddr, parse_endpoints, parse_maddr

__all__ = ['mk_maddr', 'parse_endpoints', 'parse_maddr']
