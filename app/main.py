"""`uvicorn app.main:app`: the only import with effects."""

import sys

from app.application import create_app
from app.core.errors import CannotStartError
from app.core.logging import configure_logging
from app.settings import BadSettings, load_settings

try:
    settings = load_settings()
except BadSettings as error:
    sys.stderr.write(f"gaveurs: {error.line}\n")
    raise
configure_logging(settings.log_level, **settings.log_options)
app = create_app(settings)
try:
    app.state.runtime.prepare()
except CannotStartError as error:
    sys.stderr.write(f"gaveurs: {error}\n")
    raise SystemExit(2) from error
