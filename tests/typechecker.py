# SPDX-License-Identifier: Apache-2.0
"""The check of annotations that the tests run under: beartype, an int being a float (PEP 484)."""

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
