flowrt-journal f5fdfcb0 1 {"created": "2026-11-29T11:09:56+00:00", "flowrt": "0.1.0", "fingerprint": {"node": "node", "node_type": "function", "code": "__main__:node", "config": "a3a6bf43"}}
af5c2c2e @ 191 0
59d0737b @ 208 0
85764462 @ 225 485
c9520e35 0 ok f4dbdf21 {"index": 0, "success": true, "status": "ok", "output": 0, "error": null, "error_type": null, "attempts": 1, "execution_time": 3.4776e-05}
48bf4d68 1 ok 83dcefb7 {"index": 1, "success": true, "status": "ok", "output": 1, "error": null, "error_type": null, "attempts": 1, "execution_time": 2.2603e-05}
dc2d7c87 2 ok 1ad5be0d {"index": 2, "success": true, "status": "ok", "output": 2, "error": null, "error_type": null, "attempts": 1, "execution_time": 6.122e-06}
cb61d6cd @ 729 0
