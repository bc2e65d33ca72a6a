"""What machines and drivers that come and go do to sweeps: minutes on real Ray, `make test-faults`."""

from tests.end_to_end.conftest import server, undisturbed

__all__ = ["server", "undisturbed"]
