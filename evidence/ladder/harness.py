# SPDX-License-Identifier: Apache-2.0
"""A package as a model of lm-evaluation-harness: `meadowc eval PACKAGE --tasks NAME`, or lm_eval's own API with model="meadow".

The harness asks for likelihoods and answers and does the scoring; this says what the package's own device gives.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from meadow.evidence.ladder.likelihood import likelihood
from meadow.machine.errors import UsageError
from meadow.runtime.answer import Answer
from meadow.runtime.session import Session
from meadow.runtime.text.sampler import Sampler, Sampling

ANSWER_TOKENS = 256
"""Of an answer for which a task names no limit, as the harness has it."""
ASKED = {"do_sample", "temperature", "top_k", "top_p", "min_p", "until", "max_gen_toks", "max_tokens", "seed"}
"""Settings of an answer that are known; another is refused."""


@register_model("meadow")
class Meadow(TemplateLM):  # type: ignore[misc]  # lm_eval has no types
    """A session behind the harness's questions.

    package  a package's folder, or a session that is open
    device   as `Session` has it, for a folder
    tell     (requests done, of all): progress
    """

    def __init__(
        self,
        package: str | Path | Session,
        device: str = "auto",
        tell: Callable[[int, int], None] | None = None,
        **others: Any,
    ):
        super().__init__()
        known = {
            "batch_size",
            "max_batch_size",
            "device",
        }  # the harness gives these to every model: one answer at a time here
        unknown = [key for key, value in others.items() if key not in known and value is not None]
        if unknown:
            raise UsageError(f"model arguments {', '.join(unknown)}: not known; there are package and device")
        self.session = package if isinstance(package, Session) else Session(Path(package), device or "auto")
        self.text = self.session.tokenizer
        self.tell = tell or (lambda done, total: None)

    # -- text ----------------------------------------------------------------------------------------------------------

    @property
    def eot_token_id(self) -> int:
        if not self.text.end_tokens:
            raise UsageError(
                f"{self.session.package.name} names no end token, which the harness needs for texts without a context"
            )
        return min(self.text.end_tokens)

    @property
    def prefix_token_id(self) -> int:
        begun = self.text.encode("")
        return begun[0] if begun else self.eot_token_id

    @property
    def tokenizer_name(self) -> str:
        return self.session.package.name

    def chat_template(self, chat_template: bool | str = False) -> str:
        return self.text.template or ""

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        if add_special_tokens is False:
            return list(self.text.library.encode(string, add_special_tokens=False).ids)
        return self.text.encode(string)

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        if not add_generation_prompt:
            raise UsageError(
                "an answer that is begun for the model is not possible here; choose a task without gen_prefix"
            )
        return self.text.chat(chat_history)

    # -- questions -----------------------------------------------------------------------------------------------------

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[tuple[str, str], list[int], list[int]]], **kwargs: Any
    ) -> list[tuple[float, bool]]:
        found: dict[int, tuple[float, bool]] = {}
        order = sorted(
            range(len(requests)), key=lambda n: (requests[n][1], requests[n][2])
        )  # shared beginnings stay in the cache
        for done, index in enumerate(order):
            pair, context, answer = requests[index]
            if len(answer) > self.session.context:
                raise UsageError(f"an answer of {len(answer)} tokens passes the context of {self.session.context}")
            context = context[-(self.session.context + 1 - len(answer)) :]
            found[index] = likelihood(self.session, context, answer)
            self.cache_hook.add_partial("loglikelihood", pair, found[index])
            self.tell(done + 1, len(requests))
        return [found[n] for n in range(len(requests))]

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        found = []
        for done, request in enumerate(requests):
            (text,) = request.args
            windows = get_rolling_token_windows(
                self.tok_encode(text, add_special_tokens=False), self.prefix_token_id, self.session.context, 1
            )
            pairs = [make_disjoint_window(window) for window in windows]
            found.append(sum(likelihood(self.session, list(before), list(after))[0] for before, after in pairs))
            self.tell(done + 1, len(requests))
        return found

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        found = []
        for done, request in enumerate(requests):
            prompt, how = request.args
            unknown = sorted(set(how) - ASKED)
            if unknown:
                raise UsageError(
                    f"the task asks for {', '.join(unknown)} of its answers; known are {', '.join(sorted(ASKED))}"
                )
            limit = next((int(how[k]) for k in ("max_gen_toks", "max_tokens") if how.get(k) is not None), ANSWER_TOKENS)
            if limit < 1:
                raise UsageError(f"the task asks for answers of {limit} tokens; 1 or more are possible")
            until = [how["until"]] if isinstance(how.get("until"), str) else list(how.get("until") or ())
            asked = how.get("temperature")
            samples = how.get("do_sample", bool(asked))  # as transformers has it: without a temperature it is 1
            warmth = (1.0 if asked is None else float(asked)) if samples else 0.0
            rest = {"seed": done} | {
                key: how[key] for key in ("top_k", "top_p", "min_p", "seed") if how.get(key) is not None
            }
            room = self.session.context - limit
            if room < 1:
                raise UsageError(
                    f"answers of {limit} tokens leave no room for a prompt in the context of {self.session.context}"
                )
            tokens = self.tok_encode(prompt)[-room:]
            answer = Answer(
                self.session,
                tokens,
                limit,
                Sampler(Sampling(warmth, **rest)),
                [u for u in until if u],
                None,
                self.text.end_tokens,
            )
            found.append(answer.read())
            self.cache_hook.add_partial("generate_until", request.args, found[-1])
            self.tell(done + 1, len(requests))
        return found


def evaluate(
    session: Session,
    tasks: Sequence[str],
    limit: int | None,
    shots: int | None,
    chat: bool,
    folders: Sequence[Path],
    tell: Any,
) -> dict[str, Any]:
    """The harness's results of `tasks`: for each its metrics, and how many questions were asked.

    folders  with tasks of one's own, as YAML
    Raises UsageError for tasks that are not known.
    """
    import lm_eval
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=[str(folder) for folder in folders] or None)
    unknown = [name for name in tasks if not manager.match_tasks([name])]
    if unknown:
        raise UsageError(
            f"tasks {', '.join(unknown)} are not known; `lm-eval ls tasks` names them, --include FOLDER adds some"
        )
    found = lm_eval.simple_evaluate(
        model=Meadow(session, tell=tell),
        tasks=list(tasks),
        num_fewshot=shots,
        limit=limit,
        apply_chat_template=chat,
        task_manager=manager,
        bootstrap_iters=1000,
        log_samples=False,
    )
    rows = []
    for name, metrics in found["results"].items():
        asked = found.get("n-samples", {}).get(name, {}).get("effective")
        for key, value in metrics.items():
            metric, _, filtered = key.partition(",")
            if isinstance(value, (int, float, np.floating)) and filtered and not metric.endswith("_stderr"):
                error = metrics.get(f"{metric}_stderr,{filtered}")
                error = float(error) if isinstance(error, (int, float, np.floating)) else None
                rows.append(
                    {
                        "task": name,
                        "metric": metric,
                        "filter": filtered,
                        "value": float(value),
                        "stderr": error,
                        "questions": asked,
                    }
                )
    return {"harness": f"lm-eval {lm_eval.__version__}", "shots": shots, "chat": chat, "rows": rows}
