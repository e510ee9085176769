module meshctl.io/integration-tests/pause

go 1.24.0
