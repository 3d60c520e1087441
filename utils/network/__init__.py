"""Networks: cfg text to a graph, graph to modules, raw heads to boxes, weights in and out."""
