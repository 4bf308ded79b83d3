"""The ``gsrender`` command. Each subcommand imports what it needs, so that a training machine needs no ROS."""

import logging

from gsrender_core.cli.parser import parser

logger = logging.getLogger("gsrender")


def main(argv: list[str] | None = None) -> int:
    """Run a command; bad input ends in one line and exit code 1, an interrupt in 130."""
    args = parser().parse_args(argv)
    logging.basicConfig(
        level=logging.DEBUG if args.verbose else logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S"
    )
    logging.getLogger("numba").setLevel(logging.WARNING)  # its compiler says at DEBUG whatever it does
    try:
        return args.run(args) or 0
    except KeyboardInterrupt:
        logger.error("interrupted")
        return 130
    except (ValueError, OSError, ModuleNotFoundError) as error:
        if args.verbose:
            raise
        logger.error("gsrender %s: %s", args.command, error)
        return 1
