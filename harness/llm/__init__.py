"""Large language models: one interface for every server.

The back ends (``openai_compatible``, ``vllm_server``, ``scripted``) are imported only if the config names them.
"""
