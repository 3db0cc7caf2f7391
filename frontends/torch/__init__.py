"""PyTorch in: archives of ``torch.export`` (``.pt2``), and live modules."""
