"""The bucket and lake of the ingest tests serve here as well."""

from tests.ingest.conftest import mill, new_mill

__all__ = ["mill", "new_mill"]
