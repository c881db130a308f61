module finial/tests/peers/tokens

go 1.26.6

require (
	github.com/spiffe/go-spiffe/v2 v2.8.1
	github.com/spiffe/spire v1.15.3
)

require github.com/go-jose/go-jose/v4 v4.1.4 // indirect
