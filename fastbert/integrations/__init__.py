"""Our operators in place of other libraries' attention, with no change in the code that calls it.

:mod:`fastbert.integrations.huggingface` is an attention implementation for transformers, registered when the module is
imported; :mod:`fastbert.integrations.sdpa` routes torch's ``scaled_dot_product_attention``. Neither is imported by
``import fastbert``.
"""
