// An API that takes bearer tokens: it validates each by the bundles that the agent serves at that moment. It answers 200
// with the token's expiry, or 401 with the reason. Prints its address.
//
//	usage: bearer SOCKET AUDIENCE
package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"

	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
)

func main() {
	if err := run("unix://"+os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(address, audience string) error {
	options := workloadapi.WithClientOptions(workloadapi.WithAddr(address))
	bundles, err := workloadapi.NewBundleSource(context.Background(), options)
	if err != nil {
		return err
	}
	defer bundles.Close()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(listener.Addr().(*net.TCPAddr).Port)
	return http.Serve(listener, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		token, found := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		if !found {
			http.Error(w, "no bearer token", http.StatusUnauthorized)
			return
		}
		svid, err := jwtsvid.ParseAndValidate(token, bundles, []string{audience})
		if err != nil {
			http.Error(w, err.Error(), http.StatusUnauthorized)
			return
		}
		fmt.Fprintf(w, "%s until %s", svid.ID, svid.Expiry.UTC().Format("15:04:05"))
	}))
}
