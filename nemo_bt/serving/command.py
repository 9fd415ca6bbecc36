"""nemo-bt serve: a model that listens for requests."""

from __future__ import annotations

import os
import signal
import socket
from typing import TYPE_CHECKING

from nemo_bt.config.serve import ServeRun, ServeSettings
from nemo_bt.errors import UserError
from nemo_bt.observability.terminal import Terminal, held_back

if TYPE_CHECKING:
    from nemo_bt.scoring.scorer import RewardScorer


def check_serve(run: ServeRun) -> str | None:
    """Check everything that needs no model, and give the token that requests have to bear, or None.

    Raises:
        UserError: a value cannot be used; the first one is named.
    """
    if not run.model.restore_from_path:
        raise UserError("model.restore_from_path: expected a reward model (.nemo, or a Hugging Face folder), got none.")
    if run.world_size != 1:
        raise UserError(f"nemo-bt serve is one process, {run.world_size} are configured: leave trainer.devices at 1.")
    _check_shares(run.serve)
    variable = run.serve.token_variable
    if variable is None:
        return None
    token = os.environ.get(variable)
    if not token:
        raise UserError(f"serve.token_variable: expected a token in the variable {variable}, found none.")
    return token


def _check_shares(settings: ServeSettings) -> None:
    """Check that one client may hold one request of the largest size."""
    for unit in ("bytes", "tokens"):
        all_of_them, of_a_request = f"max_waiting_{unit}", f"max_request_{unit}"
        share = int(vars(settings)[all_of_them] * settings.client_share)
        if vars(settings)[of_a_request] > share:
            raise UserError(
                f"serve.{of_a_request}: expected at most {share}, which a client may have waiting (serve.client_share "
                f"of serve.{all_of_them}), got {vars(settings)[of_a_request]}."
            )


def serve(run: ServeRun, token: str | None, terminal: Terminal) -> None:
    """Listen until SIGTERM or Ctrl-C, and then answer the requests that were taken on.

    Raises:
        UserError: the model cannot be used, the port is taken, or there are too few files for all connections.
    """
    from nemo_bt.data.tokenize.text_settings import described
    from nemo_bt.pretrained.resolve import find_pretrained
    from nemo_bt.pretrained.trained_head import was_trained_on
    from nemo_bt.scoring.model import open_trained
    from nemo_bt.scoring.scorer import RewardScorer
    from nemo_bt.serving.connections import allow_files
    from nemo_bt.serving.memory import keep_what_there_is

    settings = run.serve
    allow_files(settings.max_connections)
    model = str(run.model.restore_from_path)
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((settings.host, settings.port))
    except OSError as error:
        raise UserError(f"serve.port: {settings.host}:{settings.port} cannot be listened at: {error}.") from error
    data = run.model.data
    with held_back():
        scorer = RewardScorer.from_pretrained(
            model,
            accelerator=run.trainer.accelerator,
            precision=run.trainer.precision,
            tokens_per_stream=data.tokens_per_micro_batch,
            longest_tokens=run.model.encoder_seq_length,
            max_position_embeddings=run.model.max_position_embeddings,
            tokenizer=run.model.tokenizer.type,
            pad_token=run.model.tokenizer.pad_token,
            chat_template=data.chat_template,
            chat_template_kwargs=data.chat_template_kwargs,
            chat_template_date=data.chat_template_date,
        )
    with scorer:
        host, port = listening.getsockname()[:2]
        terminal.line(f"{model} at http://{host}:{port}: /reward, /classify, /score, /health, /metrics")
        if not scorer.renderer.chat:
            terminal.line("no chat template: requests give whole texts; messages need model.data.chat_template")
        pretrained = find_pretrained(model)
        is_later = was_trained_on(open_trained(pretrained))
        for line in described(scorer.text, pretrained, scorer.renderer.chat, is_later)[1:]:
            terminal.line(line)
        if scorer.text.join is not None or scorer.text.input_template:
            terminal.line("/score and /rerank put prompt and response together as the training did")
        keep_what_there_is()
        _run(scorer, settings, model, token, listening)
    terminal.line("stopped; every request that was taken on has its answer")


def _run(
    scorer: RewardScorer, settings: ServeSettings, model: str, token: str | None, listening: socket.socket
) -> None:
    """Answer requests until a signal says so."""
    import uvicorn

    from nemo_bt.serving.app import build_app
    from nemo_bt.serving.connections import limited
    from nemo_bt.serving.metrics import Metrics

    metrics = Metrics()
    config = uvicorn.Config(
        build_app(scorer, settings, settings.model_name or model, token, metrics),
        loop="asyncio",
        http=limited(settings, lambda reason: metrics.ended.labels(reason).inc()),
        ws="none",
        log_level="error",  # what clients do wrong is counted in the metrics; each could fill a disk with it
        access_log=False,
        proxy_headers=False,  # a client is the address of its connection; a header could name any other
        timeout_keep_alive=settings.idle_timeout_s,  # type: ignore[arg-type]
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)  # while uvicorn runs, its own stand here; then it raises the signal
    uvicorn.Server(config).run(sockets=[listening])
