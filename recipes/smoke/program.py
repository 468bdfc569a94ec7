"""An agent program: it speaks to the policy with nothing but HTTP, and says what its answer was worth."""

from typing import Any

import httpx


async def add(task: Any, access: Any) -> dict[str, float]:
    """Asks for the sum once; 1 for the right one."""
    url, key = f"{access.base_url}/completions", {"Authorization": f"Bearer {access.api_key}"}
    async with httpx.AsyncClient(verify=False, timeout=60) as client:  # loopback: certificates need not be read
        answer = await client.post(url, json={"prompt": task.text}, headers=key)
        answer.raise_for_status()
    right = float(answer.json()["choices"][0]["text"] == task.reference)
    return {"reward": right, "success": right}
