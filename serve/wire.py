# SPDX-License-Identifier: Apache-2.0
"""What goes over the wire: completions, their pieces and errors in OpenAI's shapes."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable
from typing import Any

from meadow.runtime.answer import Answer, Token
from meadow.serve.schema import ChatRequest, Request

Decode = Callable[[list[int]], str]
"""Text of token ids."""
KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    404: "invalid_request_error",
    429: "rate_limit_error",
}


def error(status: int, message: str, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    """An error's body."""
    kind = KINDS.get(status, "invalid_request_error" if status < 500 else "server_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def event(body: Any) -> bytes:
    """One server-sent event."""
    return f"data: {json.dumps(body, ensure_ascii=False)}\n\n".encode()


END = b"data: [DONE]\n\n"


class Completion:
    """One answer as a completion: whole, or in chunks.

    model        the name that it goes by
    fingerprint  of the design and the weights
    """

    def __init__(self, request: Request, model: str, fingerprint: str, decode: Decode):
        self.request, self.decode = request, decode
        self.chat = isinstance(request, ChatRequest)
        self._told, self._offset = 0, 0  # tokens whose probabilities were told; signs of text before them
        name = "chat.completion" if self.chat else "text_completion"
        self._head = {
            "id": f"{'chatcmpl' if self.chat else 'cmpl'}-{uuid.uuid4().hex}",
            "object": name,
            "created": int(time.time()),
            "model": model,
            "system_fingerprint": fingerprint,
        }

    def whole(self, answer: Answer) -> dict[str, Any]:
        """The answer at once."""
        choice: dict[str, Any] = {"index": 0, "finish_reason": answer.finish_reason, "logprobs": self._logprobs(answer)}
        if self.chat:
            choice["message"] = {"role": "assistant", "content": answer.text, "refusal": None}
        else:
            choice["text"] = answer.text
        return {**self._head, "choices": [choice], "usage": usage(answer)}

    def opening(self) -> bytes:
        """What comes before any text of a chat: who speaks."""
        return self._chunk({"role": "assistant", "content": ""}, None, None) if self.chat else b""

    def piece(self, text: str, answer: Answer) -> bytes:
        """A piece of text."""
        return self._chunk({"content": text} if self.chat else text, None, self._logprobs(answer))

    def closing(self, answer: Answer) -> bytes:
        """Why it ended, the figures where they are wanted, and the end."""
        made = self._chunk({} if self.chat else "", answer.finish_reason, self._logprobs(answer))
        options = self.request.stream_options
        if options is not None and options.include_usage:
            made += event({**self._named(), "choices": [], "usage": usage(answer)})
        return made + END

    def _named(self) -> dict[str, Any]:
        return {**self._head, "object": "chat.completion.chunk"} if self.chat else self._head

    def _chunk(self, said: Any, reason: str | None, logprobs: Any) -> bytes:
        choice = {"index": 0, "finish_reason": reason, "logprobs": logprobs, "delta" if self.chat else "text": said}
        return event({**self._named(), "choices": [choice]})

    def _logprobs(self, answer: Answer) -> dict[str, Any] | None:
        """Of the tokens since it was asked last."""
        if self.request.top is None:
            return None
        tokens, self._told = answer.tokens[self._told :], len(answer.tokens)
        if self.chat:
            return {"content": [self._chat_token(token) for token in tokens], "refusal": None}
        texts = [self.decode([token.id]) for token in tokens]
        offsets = []
        for text in texts:
            offsets.append(self._offset)
            self._offset += len(text)
        return {
            "tokens": texts,
            "token_logprobs": [token.logprob for token in tokens],
            "top_logprobs": [{self.decode([n]): p for n, p in token.top} for token in tokens],
            "text_offset": offsets,
        }

    def _chat_token(self, token: Token) -> dict[str, Any]:
        return {**self._likely(token.id, token.logprob), "top_logprobs": [self._likely(n, p) for n, p in token.top]}

    def _likely(self, token: int, logprob: float) -> dict[str, Any]:
        text = self.decode([token])
        return {"token": text, "logprob": logprob, "bytes": list(text.encode())}


def usage(answer: Answer) -> dict[str, Any]:
    """Tokens of the prompt, those of them that lay in the cache, and of the answer."""
    made = len(answer.tokens)
    return {
        "prompt_tokens": answer.prompt_tokens,
        "completion_tokens": made,
        "total_tokens": answer.prompt_tokens + made,
        "prompt_tokens_details": {"cached_tokens": answer.reused},
    }
