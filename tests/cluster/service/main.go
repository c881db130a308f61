// A web service that says who it is and what those that it needs answer; and a client for containers without one.
//
//	service serve ADDRESS NAME [NEEDED=URL]...   200 and a line "NAME", a line "NEEDED: STATUS" each, and their lines
//	service get URL                              prints the status, then the body
package main

import (
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

var client = http.Client{Timeout: 5 * time.Second}

func main() {
	log.SetFlags(0)
	switch {
	case len(os.Args) == 3 && os.Args[1] == "get":
		status, body := get(os.Args[2])
		fmt.Printf("%s\n%s", status, body)
	case len(os.Args) >= 4 && os.Args[1] == "serve":
		serve(os.Args[2], os.Args[3], os.Args[4:])
	default:
		log.Fatal("usage: service serve ADDRESS NAME [NEEDED=URL]... | service get URL")
	}
}

func serve(address, name string, needed []string) {
	http.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(w, name)
		for _, other := range needed {
			otherName, url, _ := strings.Cut(other, "=")
			status, body := get(url)
			fmt.Fprintf(w, "%s: %s\n", otherName, status)
			if status == "200" {
				fmt.Fprint(w, body)
			}
		}
	})
	// The first process of a container ends by a signal only when it asks for it.
	end := make(chan os.Signal, 1)
	signal.Notify(end, syscall.SIGTERM, syscall.SIGINT)
	go func() {
		<-end
		os.Exit(0)
	}()
	log.Fatal(http.ListenAndServe(address, nil))
}

func get(url string) (status, body string) {
	answer, err := client.Get(url)
	if err != nil {
		return err.Error(), ""
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		return err.Error(), ""
	}
	return fmt.Sprint(answer.StatusCode), string(text)
}
