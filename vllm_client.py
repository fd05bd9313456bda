#!/usr/bin/env python3
"""Chat with an LLMarking server from the terminal, or ask it one thing.

examples:
  python vllm_client.py -s                               a conversation, word by word
  python vllm_client.py "Name three sorting algorithms"  one answer
  cat essay.txt | python vllm_client.py --system "Summarize in one sentence."
  python vllm_client.py --json "Is water wet?" | jq -r '.text[0]'
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from llmarking.client import Client, GenerateOptions
from llmarking.console.chat import Chat
from llmarking.errors import InputError
from llmarking.terminal import EXIT_CODES, ExitCode, Terminal, add_server_options, read_stdin, run


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vllm_client.py",
        description=__doc__,
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "prompt",
        nargs="?",
        help="ask this and end; - or a pipe reads it from standard input",
    )
    how = parser.add_mutually_exclusive_group()
    how.add_argument("-s", "--stream", action="store_true", help="print words as they arrive")
    how.add_argument(
        "--json", action="store_true", help="print the server's answer as one JSON object"
    )
    parser.add_argument("--system", metavar="TEXT", help="tell the model first how to behave")
    parser.add_argument(
        "--max-tokens", type=int, metavar="N", help="at most so many (default: 512)"
    )
    parser.add_argument(
        "--temperature", type=float, metavar="T", help="0 always says the likeliest (default: 0)"
    )
    add_server_options(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run with these arguments, or the command line's; return the exit status."""
    parser = _parser()
    args = parser.parse_args(argv)
    terminal = Terminal(color=not args.no_color)
    if args.json and args.prompt is None and terminal.interactive:
        parser.error("--json answers one prompt: give it as an argument or through a pipe")
    options = GenerateOptions()
    if args.max_tokens is not None:
        options["max_tokens"] = args.max_tokens
    if args.temperature is not None:
        options["temperature"] = args.temperature

    def body() -> int:
        with Client(args.url, args.api_key, sleep=terminal.pause) as client:
            chat = Chat(client, terminal, stream=args.stream, system=args.system, options=options)
            if args.prompt is None and terminal.interactive:
                return chat.run()
            prompt = read_stdin() if args.prompt in (None, "-") else args.prompt
            if not prompt.strip():
                raise InputError("the prompt is empty")
            if args.json:
                response = client.generate(messages=chat.messages(prompt), **options)
                terminal.write(response.model_dump_json(exclude_none=True) + "\n")
            else:
                chat.say(prompt)
            return ExitCode.OK

    return run("vllm_client.py", body)


if __name__ == "__main__":
    sys.exit(main())
