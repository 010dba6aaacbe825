"""What an error adds when a name is wrong."""

from hybridlib.config import PARAMETERS
from hybridlib.store.errors import nearest


def test_a_name_like_another_is_told_and_a_name_like_none_is_not():
    assert nearest("stepz", PARAMETERS) == "; did you mean 'steps'?"
    assert nearest("sedes", PARAMETERS) == "; did you mean 'seeds'?"
    for far in ("qwertyuiop", "x", "quantisation", "device"):
        assert nearest(far, PARAMETERS) == "", far
