"""A conversation in the terminal: its history, its commands, Ctrl-C that stops only an answer."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing

from llmarking.client import Client, GenerateOptions
from llmarking.domain import Message
from llmarking.errors import LLMarkingError, RequestRefused
from llmarking.terminal import ExitCode, Terminal

HELP = """/clear  forget the conversation
/help   show this
/exit   end; so does Ctrl-D
Ctrl-C  stop an answer; at the prompt, end"""


class Chat:
    """One conversation. Only turns that were answered, at least in part, stay in its history."""

    def __init__(
        self,
        client: Client,
        terminal: Terminal,
        *,
        stream: bool = False,
        system: str | None = None,
        options: GenerateOptions | None = None,
    ) -> None:
        self._client = client
        self._terminal = terminal
        self._stream = stream
        self._system = system
        self._options = options or GenerateOptions()
        self._history: list[Message] = []

    def messages(self, text: str) -> list[Message]:
        """What is sent when the user says `text` now."""
        system: list[Message] = []
        if self._system:
            system = [{"role": "system", "content": self._system}]
        return [*system, *self._history, {"role": "user", "content": text}]

    def say(self, text: str) -> None:
        """Send a message and print the answer.

        Raises:
            KeyboardInterrupt: after the connection is closed, so that the server stops too. What
                was printed stays in the history: the model should know what the user saw.
        """
        said = ""
        try:
            with closing(self._texts(text)) as texts:
                for so_far in texts:
                    # A stop sequence may take back its beginning, which can't be unprinted.
                    piece, said = so_far[len(said) :], so_far
                    self._terminal.write(piece)
        finally:
            if said:
                self._terminal.write("\n")
                self._history.append({"role": "user", "content": text})
                self._history.append({"role": "assistant", "content": said})

    def _texts(self, text: str) -> Generator[str, None, None]:
        messages = self.messages(text)
        if self._stream:
            return self._client.stream_generate(messages=messages, **self._options)
        return self._whole(messages)

    def _whole(self, messages: list[Message]) -> Generator[str, None, None]:
        with self._terminal.busy("answering; Ctrl-C stops it"):
            response = self._client.generate(messages=messages, **self._options)
        yield response.text[0]
        if response.finish_reasons[:1] == ["length"]:
            self._terminal.note("(cut off: --max-tokens allows more)")

    def run(self) -> int:
        """Talk until the user ends it."""
        model = self._client.models()[0].model
        self._terminal.note(f"{model} at {self._client.url}; /help lists commands, Ctrl-D ends")
        while True:
            try:
                text = self._terminal.ask("> ").strip()
            except EOFError:
                return ExitCode.OK
            if text in ("/exit", "/quit"):
                return ExitCode.OK
            if text == "/clear":
                self._history.clear()
                self._terminal.note("forgotten")
            elif text.startswith("/") and text.split() == [text]:
                self._terminal.note(HELP if text == "/help" else f"{text} is no command\n{HELP}")
            elif text:
                self._answer(text)

    def _answer(self, text: str) -> None:
        try:
            self.say(text)
        except KeyboardInterrupt:
            self._terminal.note("(stopped)")
        except LLMarkingError as error:
            self._terminal.complain(str(error))
            if isinstance(error, RequestRefused) and error.status == 422 and self._history:
                self._terminal.note("/clear starts a new conversation")
