"""Tools of the checkout, called by the Makefile; the package never imports or ships them."""

import sys

# Here, for whoever types `make` first: an older Python does not even read the modules below, and of
# a newer one the pins say no more than that some package has no wheel.
if not (3, 11) <= sys.version_info[:2] <= (3, 12):
    sys.exit(
        f"Python 3.11 or 3.12 is needed, and '{sys.executable}' is "
        f"{sys.version_info[0]}.{sys.version_info[1]}; name another one, such as "
        "`make PYTHON=/usr/bin/python3.11 …`."
    )
