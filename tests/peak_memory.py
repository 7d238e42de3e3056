"""How much memory a function takes at most, on the CPU and on a GPU."""

import warnings

import torch


def peak_bytes(function, device):
    """Most memory allocated at once while ``function`` runs, beyond what was there before."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
        return torch.cuda.max_memory_allocated() - before
    with warnings.catch_warnings(), torch.profiler.profile(profile_memory=True) as profile:
        warnings.simplefilter("ignore")
        function()
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak
