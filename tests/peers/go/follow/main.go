// Fetches JWT-SVIDs and validates each by the keys that the agent's bundles have at that moment, until its standard input
// ends. Prints how many there were, how many different keys had signed them, and how many were refused.
//
//	usage: follow SOCKET
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
)

func main() {
	if err := run("unix://" + os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(address string) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	source, err := workloadapi.NewJWTSource(ctx, workloadapi.WithClientOptions(workloadapi.WithAddr(address)))
	if err != nil {
		return err
	}
	defer source.Close()
	fmt.Println("following")
	count, keys, refused := 0, map[string]bool{}, 0
	for ctx.Err() == nil {
		svid, err := source.FetchJWTSVID(ctx, jwtsvid.Params{Audience: "follow"})
		if ctx.Err() != nil {
			break
		}
		count++
		if err == nil {
			keys[key(svid.Marshal())] = true
			_, err = jwtsvid.ParseAndValidate(svid.Marshal(), source, []string{"follow"})
		}
		if err != nil {
			refused++
			fmt.Fprintln(os.Stderr, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
	fmt.Printf("%d tokens of %d keys, %d refused\n", count, len(keys), refused)
	return nil
}

// key is the ID of the key that has signed a token.
func key(token string) string {
	parsed, err := jwt.ParseSigned(token, []jose.SignatureAlgorithm{jose.ES256})
	if err != nil {
		return ""
	}
	return parsed.Headers[0].KeyID
}
