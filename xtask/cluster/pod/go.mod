module fathom/cluster/pod

go 1.26
