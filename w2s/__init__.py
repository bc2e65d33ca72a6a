"""The science of one weak-to-strong run: task, model, loss, finetuning, prediction.

The words, as Burns et al. 2023 (arXiv:2312.09390) use them. The *weak supervisor* is a small model finetuned on
ground truth; it labels examples it was not trained on. The *strong student* is a larger model that learns from
those *weak labels*. The *strong ceiling* is the student's pretrained model trained on ground truth instead, on the
same examples. A *rung* is one model of a *ladder* of sizes; a *method* is how the student learns from weak labels.

Nothing here knows of Ray, of the sweep or of the analysis: `w2s.experiment.run_one` works from a notebook.
"""
