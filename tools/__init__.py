"""Tools of the checkout, called by the Makefile; the package never imports or ships them."""
