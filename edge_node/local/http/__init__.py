"""Serves the OpenAI API over HTTP to applications of this machine, in front of the same answerer as gRPC.

A request on its way through the files: door (token, host) → body (size) → fields (shape) → question (meaning, with images) →
the answerer → reply (objects) → sending (bytes). errors turns what fails on the way into the API's own form.
"""
