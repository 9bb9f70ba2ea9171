"""Chats as an application does, and says what the client library made of answers and refusals."""

import asyncio
import json
import sys

import openai


def messages(text: str) -> list:
    return [{"role": "user", "content": text}]


def refused(call) -> dict:
    try:
        call()
    except openai.APIStatusError as error:
        body = error.body if isinstance(error.body, dict) else {"text": str(error.body)}
        return {"type": type(error).__name__, "status": error.status_code, "message": str(error), "body": body}
    return {"type": "allowed"}


async def many(url: str, count: int) -> int:
    """Streams at the same time, each of another length; how many words came in all."""
    async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:

        async def one(words: int) -> int:
            stream = await client.chat.completions.create(
                model="llama-3", messages=messages(f"say {words}"), stream=True
            )
            text = "".join([event.choices[0].delta.content or "" async for event in stream])
            assert text.split() == [f"word-{n}" for n in range(words)], text
            return words

        return sum(await asyncio.gather(*[one(words) for words in range(1, count + 1)]))


def main(friend: str, stranger: str) -> dict:
    client = openai.OpenAI(base_url=friend, api_key="none", max_retries=0)
    whole = client.chat.completions.create(model="llama-3", messages=messages("say 5"))
    for _ in range(20):
        client.chat.completions.create(model="llama-3", messages=messages("again 1"))

    words, counted, early = [], None, False
    stream = client.chat.completions.create(
        model="llama-3", messages=messages("wait 4"), stream=True, stream_options={"include_usage": True}
    )
    for event in stream:
        if event.usage:
            counted = event.usage.total_tokens
        if event.choices and event.choices[0].delta.content:
            words.append(event.choices[0].delta.content.strip())
            if len(words) == 1:
                early = client.models.list().data[0].id == "llama-3"

    secret = refused(lambda: client.chat.completions.create(model="gpt-secret", messages=messages("say 1")))
    embed = refused(lambda: client.embeddings.create(model="llama-3", input="text"))
    outside = openai.OpenAI(base_url=stranger, api_key="none", max_retries=0)
    other = refused(lambda: outside.chat.completions.create(model="llama-3", messages=messages("say 1"), stream=True))
    return {
        "text": whole.choices[0].message.content,
        "usage": whole.usage.total_tokens,
        "streamed": words,
        "streamedUsage": counted,
        "firstBeforeLast": early,
        "atOnce": asyncio.run(many(friend, 20)),
        "secret": secret,
        "embed": embed,
        "stranger": other,
    }


print(json.dumps(main(sys.argv[1], sys.argv[2])))
