from __future__ import annotations

import torch

from fastbert import BertForSequenceClassification

model = BertForSequenceClassification.from_pretrained("runs/bert", num_labels=2)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
model.train()
losses = []
for batch in torch.load("batches.pt"):  # dictionaries of input_ids, attention_mask, token_type_ids and labels
    loss = model(**batch).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    losses.append(loss.item())
model.save_pretrained("runs/reviews")
