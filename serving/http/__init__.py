"""The HTTP endpoint: routes, request and response bodies, admission, auth and the server."""
