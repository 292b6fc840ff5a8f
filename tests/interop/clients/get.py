# SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
# SPDX-License-Identifier: Apache-2.0

"""Fetches URLs over one session, as the environment says, and prints what they answer."""
import sys

import requests

with requests.Session() as session:
    for url in sys.argv[1:]:
        response = session.get(url, timeout=20)
        response.raise_for_status()
        print(response.text, end="")
