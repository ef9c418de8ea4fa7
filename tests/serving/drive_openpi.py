"""Eight clients of openpi's, in a Python that has ``openpi-client`` and nothing of ours.

Arguments: the server's address, its key, and a folder with observations ``N.npz``.
"""

import json
import sys
import threading
from pathlib import Path

import numpy as np
from openpi_client.action_chunk_broker import ActionChunkBroker
from openpi_client.websocket_client_policy import WebsocketClientPolicy


def observation(folder, seed):
    with np.load(folder / f"{seed}.npz") as seen:
        return {
            "state": seen["state"],
            "observation/image": seen["top"],
            "images": {"wrist": np.moveaxis(seen["wrist"], -1, 0)},
            "prompt": "do something",
        }


def main():
    uri, key, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    ready = threading.Barrier(8)

    def be(number):
        policy = WebsocketClientPolicy(uri, api_key=key)
        ready.wait()
        seen = [observation(folder, number % 3 + k) for k in range(4)]
        named = [one | {"pcm/seed": np.int64(number)} for one in seen]
        found = [policy.infer(one) for one in named]
        assert all(reply["server_timing"]["infer_ms"] > 0 for reply in found)
        np.save(folder / f"client{number}.npy", np.stack([reply["actions"] for reply in found]))

    threads = [threading.Thread(target=be, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    policy = WebsocketClientPolicy(uri, api_key=key)
    named = observation(folder, 0) | {"pcm/seed": 5, "pcm/reset": True}
    chunk = policy.infer(named)["actions"]
    broker = ActionChunkBroker(policy, action_horizon=4)
    brokered = [broker.infer(named)["actions"].tolist() for _ in range(4)]
    said = {"metadata": policy.get_server_metadata(), "brokered": brokered}
    said["chunk"] = chunk[:4].tolist()
    try:
        policy.infer(named | {"observation/image": np.zeros((9, 9, 3), np.uint8)})
    except RuntimeError as error:
        said["error"] = str(error)
    policy.infer(named)  # the connection is still open
    try:
        WebsocketClientPolicy(uri, api_key="guess")
    except Exception as error:
        said["key"] = str(error)
    print(json.dumps(said))


if __name__ == "__main__":
    main()
