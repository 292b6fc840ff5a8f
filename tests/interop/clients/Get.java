// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import java.net.URI;

/** Fetches URLs, as the system properties say, and prints what they answer. */
class Get {
  public static void main(String[] urls) throws Exception {
    for (String url : urls) {
      var connection = URI.create(url).toURL().openConnection();
      connection.setConnectTimeout(20_000);
      connection.setReadTimeout(20_000);
      try (var content = connection.getInputStream()) {
        content.transferTo(System.out);
      }
    }
    System.out.flush();
  }
}
