"""`accelerate launch` as a module that ends without its own traceback: the processes it started say what went wrong."""

from __future__ import annotations

import logging
import subprocess
import sys

from alignkit.errors import first_line


def main() -> None:
    """Runs accelerate's command line with this process's arguments."""
    from accelerate.commands.accelerate_cli import main as accelerate
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    logging.disable(logging.ERROR)
    try:
        accelerate()
    except ChildFailedError:
        sys.exit(1)
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode if error.returncode > 0 else 1)
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"accelerate launch: {first_line(error)}")


if __name__ == "__main__":
    main()
