"""A run as one HTML page: `page` puts it together of `charts`, a `sample` of the answers, and the `fates` of tokens."""
