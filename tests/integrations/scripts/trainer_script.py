from __future__ import annotations

import torch
from transformers import Trainer, TrainingArguments

from fastbert import BertForSequenceClassification

model = BertForSequenceClassification.from_pretrained("runs/bert", num_labels=2)
arguments = TrainingArguments(
    output_dir="runs/trainer", max_steps=50, learning_rate=1e-3, save_strategy="no", report_to="none"
)
examples = torch.load("examples.pt")  # a list of dictionaries, one an example, padded to one length
trainer = Trainer(model=model, args=arguments, train_dataset=examples)
trainer.train()
model.save_pretrained("runs/reviews")
