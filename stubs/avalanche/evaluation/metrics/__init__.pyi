from avalanche.evaluation import PluginMetric

def accuracy_metrics(
    *,
    minibatch: bool = False,
    epoch: bool = False,
    epoch_running: bool = False,
    experience: bool = False,
    stream: bool = False,
    trained_experience: bool = False,
) -> list[PluginMetric[float]]: ...
