"""
What makes training faster than the libraries' own way through it, each lever in a file of its own:

    trained_loss        LM head and cross-entropy on trained positions only
    row_attention       a batch without padding (row_collator), attention within each row
    context_parallel    its tokens shared out among threads
    lora_linear         one autograd function for a frozen layer and its LoRA
    gated_mlp           … for a gated MLP and its three LoRA
    rms_norm            … for an RMS norm
    rotary              … for the rotation of queries and keys

`levers.py` decides which apply to a model and a recipe, `sft.py` is where trl's trainer meets them.
Each equals the plain path (tests/training/speed), and one that does not fit steps aside.
"""
