"""The parts of `tractor.to_asyncio`; nothing here is imported before that is asked for."""
