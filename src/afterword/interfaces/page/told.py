"""What the core says went wrong, in the reader's language.

The core speaks English, in its errors as in its logs and in what the ledger keeps of them. What the page knows of it is
told in Chinese too; what it does not know stays as it came.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache

# English → Chinese. A name in braces stands for any text; one that begins with `told` is translated in its turn.
_ZH = {
    # an LLM, an embedder: what happened
    "nothing answers at {url}": "{url} 没有响应",
    "no connection to {url} in time": "未能及时连接 {url}",
    "no safe connection to {url}: {why}": "无法与 {url} 建立安全连接：{why}",
    "{url} sent its answer packed ({why}) though a plain one was asked for": (
        "{url} 发来压缩的回答，而请求的是未压缩的"
    ),
    "{url} broke off the connection": "{url} 断开了连接",
    "{url} broke off in the middle of the reply": "{url} 在回复中途断开",
    "{url} gave no answer within {n} s": "{url} 在 {n} 秒内没有回答",
    "{url} answered with something that is not the OpenAI protocol": "{url} 的回答不符合 OpenAI 协议",
    "{url} failed in the middle of its answer: {why}": "{url} 在回答中途出错：{why}",
    "{url} failed with {status}: {why}": "{url} 出错（{status}）：{why}",
    "{url} has had too many requests (429)": "{url} 请求过多（429）",
    "the account at {url} has no credit left ({status})": "{url} 的账户余额不足（{status}）",
    "{url}: the key was refused ({status})": "{url} 拒绝了密钥（{status}）",
    "{url}: a key is needed ({status})": "{url} 需要密钥（{status}）",
    "{url} has no model {model}": "{url} 没有模型 {model}",
    "{url} is not the address of an API (404)": "{url} 不是接口地址（404）",
    "{url} is no web address": "{url} 不是网址",
    "the key holds characters that no key has": "密钥含有不该有的字符",
    "the LLM began no reply within {n} s": "模型在 {n} 秒内没有开始回复",
    "the LLM fell silent for {n} s in the middle of the reply": "模型在回复中途沉默了 {n} 秒",
    "the reply was not at its end after {n} s": "回复在 {n} 秒后仍未结束",
    "the LLM wrote more than {n} characters": "模型写了超过 {n} 个字符",
    "the LLM gave an empty reply": "模型的回复是空的",
    "no LLM is set": "还没有设置模型",
    "no LLM is set: nothing to merge": "还没有设置模型，无法归纳",
    "nothing that the LLM answers can be used ({told})": "模型的回答都无法使用（{told}）",
    "{model}: the input is too long for it ({status}): {why}": "输入对 {model} 来说太长（{status}）：{why}",
    "{model}: the input was refused ({status}): {why}": "{model} 拒绝了输入（{status}）：{why}",
    "{model} refused the input: {why}": "{model} 拒绝了输入：{why}",
    "{model} used up {n} tokens before it began its answer": "{model} 还没开始回答就用完了 {n} 个词元",
    "{model} answered {n} characters, {m} tokens were asked for": "{model} 回答了 {n} 个字符，而只要求 {m} 个词元",
    "the answer is not JSON: {why}": "模型的回答不是 JSON",
    "the answer lacks the list {key}": "模型的回答缺少列表 {key}",
    "{key} holds no objects": "模型的回答里 {key} 没有内容",
    "no entry names a turn among {which}": "模型的回答没有指明是哪句话",
    "no verdict names a memory among {which}": "模型的回答没有指明是哪条记忆",
    "no change names an action of {which}": "模型的回答没有指明要做什么",
    "the step did not end within its time": "这一步没有按时完成",
    "no answer in time": "没有按时回答",
    "its worker was lost": "执行它的进程中断了",
    "its worker was lost at every attempt": "每次执行它的进程都中断了",
    "the embedding model {model} gave vectors of {n} dimensions where it had {m}": (
        "向量模型 {model} 给出 {n} 维向量，而以前是 {m} 维"
    ),
    "the embedding model {model} gave {told_what}": "向量模型 {model} 的结果无法使用（{told_what}）",
    "{n} vectors for {m} texts": "{m} 段文字得到 {n} 个向量",
    "vectors of different lengths, or no numbers": "向量长短不一，或不是数字",
    "vectors of {n} dimensions where it had {m}": "{n} 维向量，而以前是 {m} 维",
    "a vector with values that are no numbers (NaN or infinite)": "向量含有非数字（NaN 或无穷大）",
    "a vector of length 0": "向量长度为 0",
    "the bundled model can't be loaded: {why}": "无法加载自带的向量模型：{why}",
    # what to do about it
    "start the server or set {setting}": "请启动该服务，或设置 {setting}",
    "see that the server runs and can be reached, or set {setting}": "请确认该服务在运行且可以访问，或设置 {setting}",
    "mend the server's certificate, or the proxy": "请修复服务器证书或代理",
    "ask again; if it lasts, look at the server's log": "请重新提问；如果一直如此，请查看该服务的日志",
    "ask again": "请重新提问",
    "ask again, or choose another model": "请重新提问，或换一个模型",
    "ask again, for less at once; if it lasts, choose another model": "请少问一些再试；如果一直如此，请换一个模型",
    "ask again, for less at once, or raise {setting}": "请少问一些再试，或调大 {setting}",
    "look at the server's log": "请查看该服务的日志",
    "look at the server's load, take a smaller model, or raise {setting}": (
        "请查看该服务的负载、换小一些的模型，或调大 {setting}"
    ),
    "look at the load of the LLM's server, take a smaller model, or raise {setting}": (
        "请查看模型服务的负载、换小一些的模型，或调大 {setting}"
    ),
    "wait a little and ask again, as background work does by itself; or raise the account's limits": "请稍候再提问（后台工作会自动重试）；也可以提高账户限额",
    "ask again, as background work does by itself; if it lasts, look at the server's log": "请重新提问（后台工作会自动重试）；如果一直如此，请查看该服务的日志",
    "top it up, or choose another server": "请充值，或换一个服务",
    "set {setting} to a valid key": "请把 {setting} 设为有效的密钥",
    "set {setting} to the key alone": "请把 {setting} 设为密钥本身",
    "set {setting} to one that begins with http": "请把 {setting} 设为以 http 开头的地址",
    "set {setting} to the address that ends in /v1": "请把 {setting} 设为以 /v1 结尾的地址",
    "set {setting} to one that it has: {names}": "请把 {setting} 设为它有的模型：{names}",
    "set {setting} to one that it has": "请把 {setting} 设为它有的模型",
    "set {setting} to an embedding model that is sound": "请把 {setting} 设为可用的向量模型",
    "set {setting} to the model that was used before, or to one of another name": (
        "请把 {setting} 设回以前的模型，或换一个名字不同的模型"
    ),
    "set {setting} to the model that was used before": "请把 {setting} 设回以前的模型",
    "set {one} (or {other}) to another model; it is asked again by itself": (
        "请把 {one}（或 {other}）设为别的模型；会自动重试"
    ),
    "set {one} and {other}": "请设置 {one} 和 {other}",
    # recall
    "searched by words only: {told}": "只按用词检索：{told}",
    "searched nothing: {told}": "没有检索：{told}",
    "not reranked: {told}": "没有重新排序：{told}",
    "the reranker did not answer within {n} s": "重排序服务在 {n} 秒内没有回答",
    "the embedder did not answer within {n} s": "向量服务在 {n} 秒内没有回答",
    "the index did not answer within {n} s": "索引在 {n} 秒内没有回答",
    "Milvus did not answer within {n} s": "Milvus 在 {n} 秒内没有回答",
    "Milvus at {url} does not answer: {why}": "{url} 的 Milvus 没有响应：{why}",
    "Milvus could not {what}: {why}": "Milvus 出错：{why}",
    "Milvus does not hold what was written to it": "写入 Milvus 的内容没有保存下来",
    "Milvus Lite can't be started: {why}": "无法启动 Milvus Lite：{why}",
    "Milvus Lite did not start within {n} s": "Milvus Lite 在 {n} 秒内没有启动",
    "Milvus Lite ended while it started (exit code {code})": "Milvus Lite 启动时退出（退出码 {code}）",
    "another program has {path} open": "{path} 被其他程序占用",
    "Look at {where}; if rows are damaged, run `afterword reindex`": "请查看 {where}；如有损坏，请运行 `afterword reindex`",
    "Read {log}, or set {setting} to another path or to none": "请查看 {log}，或把 {setting} 设为别的路径或留空",
    "Start it, or check {one} and {other}": "请启动它，或检查 {one} 和 {other}",
    "Is its disk full? Look at its log": "请检查它的磁盘是否已满，并查看日志",
    "Look at its log and its load": "请查看它的日志和负载",
    "the query's vector has {n} dimensions, the kept ones have {m}": "提问的向量是 {n} 维，而保存的是 {m} 维",
    # the ledger
    "the ledger {path}": "账本 {path}",
    "the database {url}": "数据库 {url}",
    "no space is left for {told_where}: free some, then go on; what was acknowledged is kept ({why})": (
        "{told_where} 所在的磁盘已满：请腾出空间后继续，已确认的内容都在"
    ),
    "{told_where} is read-only: give this user the right to write the file and its folder ({why})": (
        "{told_where} 是只读的：请给当前用户写入该文件及其文件夹的权限"
    ),
    "{told_where} is locked by another program: close it (a database browser, a backup) and try again ({why})": (
        "{told_where} 被其他程序锁定：请关闭它（如数据库浏览器或备份程序）后再试"
    ),
    "{told_where} is locked by another program's transaction: end that one and try again ({why})": (
        "{told_where} 被其他程序的事务锁定：请结束该事务后再试"
    ),
    "{told_where} can't be opened: is the folder there, may this user write to it, are too many files open? ({why})": (
        "无法打开 {told_where}：请检查文件夹是否存在、当前用户能否写入、打开的文件是否过多"
    ),
    "{told_where} can't be read or written: check the disk, then start again ({why})": "无法读写 {told_where}：请检查磁盘后重新启动",
    "{told_where} can't be read or written: {why}": "无法读写 {told_where}：{why}",
    "{told_where} is damaged or is no ledger ({why}): {fix}": (
        "{told_where} 已损坏或不是账本：请停止 Afterword，移走该文件及名字带 -wal 和 -shm 的文件，再放回备份；"
        "没有备份时，可用 sqlite3 的 .recover 抢救能读的内容"
    ),
    "{told_where} is empty, which none that we made ever is: {fix}": (
        "{told_where} 是空的，不是 Afterword 写的：请停止 Afterword 并放回备份，或删除该文件重新开始"
    ),
    "the reply could not be stored": "回复没能保存",
    # what a person asked for
    "{name} has {n} characters: give at most {m}, or split it": "内容有 {n} 个字符，最多 {m} 个，请分成几次发送",
    "{name} has {n} characters: give at most {m}": "有 {n} 个字符，最多 {m} 个",
    "{name} is empty: give 1 to {m} characters": "不能为空，请填 1 到 {m} 个字符",
    "{name} is empty: say something": "内容是空的，请写点什么",
    "{name} holds a control character or half a character: remove it": "含有控制字符或残缺字符，请删除",
    "the server is shutting down: send the message again in a moment": "服务器正在关闭，请稍后再发送",
    "the server is stopping: send this again in a moment": "服务器正在停止，请稍后再发送",
    "the memory is still getting ready: send this again in a moment": "记忆还在准备中，请稍后再发送",
    "{n} jobs of this user wait already (max_waiting_jobs_per_user): try later": "该用户已有 {n} 项工作在等待，请稍后再试",
    "{n} jobs wait already (max_waiting_jobs): try later": "已有 {n} 项工作在等待，请稍后再试",
    "{n} turns of this user wait to be decided, {m} may ({limit}): send this again later, nothing of it was kept": (
        "你已有 {n} 条内容在等待处理，最多 {m} 条，请稍后再发送"
    ),
    "{n} turns of all users wait to be decided, {m} may ({limit}): send this again later, nothing of it was kept": (
        "共有 {n} 条内容在等待处理，最多 {m} 条，请稍后再发送"
    ),
    "{n} MB of turns of this user wait to be decided, {m} may ({limit}): send this again later, nothing of it was kept": (
        "你已有 {n} MB 的内容在等待处理，最多 {m} MB，请稍后再发送"
    ),
    "{n} MB of turns of all users wait to be decided, {m} may ({limit}): send this again later, nothing of it was kept": (
        "共有 {n} MB 的内容在等待处理，最多 {m} MB，请稍后再发送"
    ),
    "{n} replies to this user are under way ({limit}): send this again later, nothing of it was kept": (
        "你已有 {n} 条回复正在写，请稍后再发送"
    ),
    "{n} replies are under way ({limit}): send this again later, nothing of it was kept": (
        "共有 {n} 条回复正在写，请稍后再发送"
    ),
    "turn {id} has a whole reply already: ask something new": "这条消息已有完整的回复，请问新的问题",
    "no memory {id} of this user": "没有这条记忆",
    "no turn {id} of this user": "没有这条消息",
    "no job {id} of this user": "没有这项工作",
    "memory {id} is retired ({why}): edit a current one": "这条记忆已被取代，请编辑当前的版本",
    "memory {id} is at version {n}, not {m}": "这条记忆刚刚被修改过，请刷新后再试",
    "job {id} is {state}: only a dead or cancelled one can be tried again": "只有失败或取消的工作才能重试",
    "this user's memory was reset while the work was under way": "该用户的记忆在此期间被清空了",
    "this reply has no receipt": "这条回复没有依据",
}
_NAME = re.compile(r"\{(\w+)\}")


def _pattern(english: str) -> re.Pattern[str]:
    parts = _NAME.split(english)
    texts = [re.escape(part) if place % 2 == 0 else f"(?P<{part}>.+?)" for place, part in enumerate(parts)]
    return re.compile("".join(texts), re.DOTALL)


def _forms() -> Iterator[tuple[str, str]]:
    """Each text as it stands, and as others may read it: without what a server or a database said of it."""
    for english, chinese in _ZH.items():
        yield english, chinese
        short = re.sub(r" \(\{why\}\)|: \{why\}$", "", english)
        if short != english:
            yield short, re.sub(r"（\{why\}）|：\{why\}$", "", chinese)


# the longest first: a pattern with more words of its own says more
_KNOWN = [(_pattern(english), chinese) for english, chinese in sorted(_forms(), key=lambda pair: -len(pair[0]))]


def told(text: str, lang: str) -> str:
    """An error's text, or the reason of something, as a person reads it in `lang`."""
    return (_in_chinese(text) or text) if lang == "zh" else text


def as_sentence(text: str) -> str:
    """A text on a line of its own: with a capital, unless it begins with an address."""
    return text if "://" in text.split(" ", 1)[0] else text[:1].upper() + text[1:]


@lru_cache(maxsize=2048)
def _in_chinese(text: str) -> str | None:
    for place in (found.start() for found in re.finditer(": ", text)):  # a cause and its fix in one line
        cause, fix = _matched(text[:place]), _matched(text[place + 2 :])
        if cause is not None and fix is not None:
            return f"{cause}。{fix}"
    return _matched(text)


def _matched(text: str) -> str | None:
    for pattern, chinese in _KNOWN:
        found = pattern.fullmatch(text.removesuffix("."))
        if found is not None:
            values = {k: (_in_chinese(v) or v) if k.startswith("told") else v for k, v in found.groupdict().items()}
            return chinese.format(**values)
    return None
