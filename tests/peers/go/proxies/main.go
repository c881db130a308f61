// The proxy that Go uses for a gRPC server, by environment and target: the table that finial's choice is held against.
//
// Makes the table anew (from tests/peers/go):
//
//	go run ./proxies > ../../../agent/testdata/proxies.json
//
// grpc-go asks http.ProxyFromEnvironment for https://TARGET, which is golang.org/x/net/http/httpproxy; that one reads the
// environment each time. Ports that are missing are those of net/http's Transport.
package main

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log"
	"net"
	"net/url"
	"os"
	"strings"

	"golang.org/x/net/http/httpproxy"
)

// Row is an environment, a target, and the proxy that Go takes; none where it connects by itself.
type Row struct {
	Environment map[string]string `json:"environment"`
	Host        string            `json:"host"`
	Port        string            `json:"port"`
	Proxy       *Proxy            `json:"proxy"`
}

// Proxy is what is dialled and said.
type Proxy struct {
	Scheme        string `json:"scheme"`
	Host          string `json:"host"`
	Port          string `json:"port"`
	Authorization string `json:"authorization"`
}

func main() {
	log.SetFlags(0)
	os.Clearenv()
	must(os.Setenv("GODEBUG", "urlstrictcolons=1"))
	lines := []string{}
	for _, row := range rows() {
		row.Proxy = choose(row)
		line, err := json.Marshal(row)
		must(err)
		lines = append(lines, string(line))
	}
	fmt.Printf("[\n%s\n]\n", strings.Join(lines, ",\n"))
}

func choose(row Row) *Proxy {
	for name, value := range row.Environment {
		must(os.Setenv(name, value))
		defer os.Unsetenv(name)
	}
	target := &url.URL{Scheme: "https", Host: net.JoinHostPort(row.Host, row.Port)}
	found, err := httpproxy.FromEnvironment().ProxyFunc()(target)
	must(err)
	if found == nil {
		return nil
	}
	proxy := &Proxy{Scheme: found.Scheme, Host: found.Hostname(), Port: found.Port()}
	if proxy.Port == "" && found.Scheme == "https" {
		proxy.Port = "443"
	} else if proxy.Port == "" {
		proxy.Port = "80"
	}
	if user := found.User; user != nil {
		password, _ := user.Password()
		both := user.Username() + ":" + password
		proxy.Authorization = "Basic " + base64.StdEncoding.EncodeToString([]byte(both))
	}
	return proxy
}

func rows() []Row {
	list := []Row{}
	add := func(environment map[string]string, targets ...string) {
		for _, target := range targets {
			host, port, err := net.SplitHostPort(target)
			must(err)
			list = append(list, Row{Environment: environment, Host: host, Port: port})
		}
	}
	const server = "spire.example.org:8081"
	add(map[string]string{}, server)
	for _, name := range []string{"HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"} {
		add(map[string]string{name: "http://proxy.example:3128"}, server)
	}
	add(map[string]string{"HTTPS_PROXY": "http://upper:1", "https_proxy": "http://lower:2"}, server)
	add(map[string]string{"HTTPS_PROXY": "", "https_proxy": "http://lower:2"}, server)
	add(map[string]string{"HTTPS_PROXY": "http://p:1", "NO_PROXY": "", "no_proxy": "example.org"}, server)
	add(map[string]string{"HTTPS_PROXY": "http://p:1", "NO_PROXY": "other", "no_proxy": "example.org"}, server)
	add(map[string]string{"HTTPS_PROXY": "http://p:1", "REQUEST_METHOD": "GET"}, server)
	for _, proxy := range proxies {
		add(map[string]string{"HTTPS_PROXY": proxy}, server)
	}
	proxied := map[string]string{"HTTPS_PROXY": "http://p:1"}
	add(proxied, "localhost:8081", "LOCALHOST:8081", "localhost.:8081", "a.localhost:8081", "127.0.0.1:8081", "127.9.9.9:1",
		"[::1]:8081", "[::ffff:127.0.0.1]:8081", "0.0.0.0:8081", "10.1.2.3:8081", "[fd00::1]:8081", "[fe80::1%eth0]:8081")
	for _, exempt := range exemptions {
		environment := map[string]string{"HTTPS_PROXY": "http://p:1", "NO_PROXY": exempt.list}
		add(environment, exempt.targets...)
	}
	return list
}

var proxies = []string{
	"proxy", "proxy:3128", "http://proxy", "http://proxy:3128", "http://proxy:3128/", "http://proxy:3128/path?query#fragment",
	"https://proxy", "https://proxy:3128", "HTTPS://proxy", "HTTP://PROXY", "http://proxy:", "https://proxy:", "http://proxy:0",
	"10.0.0.1", "10.0.0.1:3128", "http://10.0.0.1", "[fd00::1]:3128", "http://[fd00::1]:3128", "http://[fd00::1]", "fd00::1",
	"http://[fe80::1%25eth0]:3128", "http://[fd00::1", "http://fd00::1:3128",
	"user@proxy:3128", "user:password@proxy:3128", "http://user@proxy:3128", "http://user:@proxy:3128", "http://user:password@proxy",
	"http://:password@proxy", "http://@proxy", "http://us%40er:p%3Aw%25@proxy:3128", "http://user:p:w@proxy", "http://user:p@w@proxy",
	"http://us er:pw@proxy", "http://user:p%zz@proxy", "http://user:p%c3%a9@proxy", "http://user:p+w@proxy", "http://user:p/w@proxy",
	"http://", "://proxy", ":3128", "//proxy:3128", "http:/proxy", "http:proxy", "proxy:port", "http://proxy:port", "http://pro xy",
	"http://proxy%41", "http://proxy%25", "http://a:b:c", "a:b:c", " http://proxy:3128", "http://proxy:3128 ", "\thttp://proxy",
	"1proxy:3128", "proxy.example.org:3128", "proxy_1:3128", "pro-xy:3128", "pro_xy", "http+unix://proxy", "*", "off", "%zz",
}

var exemptions = []struct {
	list    string
	targets []string
}{
	{"*", []string{"spire.example.org:8081", "10.1.2.3:8081", "[fd00::1]:1"}},
	{"a,*", []string{"spire.example.org:8081"}},
	{"*,a", []string{"spire.example.org:8081", "10.1.2.3:8081"}},
	{" * ", []string{"spire.example.org:8081"}},
	{"*:8081", []string{"spire.example.org:8081"}},
	{"example.org", []string{"example.org:8081", "spire.example.org:8081", "badexample.org:8081", "EXAMPLE.org:8081", "example.org.:8081", "example.com:1"}},
	{".example.org", []string{"example.org:8081", "spire.example.org:8081", "badexample.org:8081", "a.b.example.org:1"}},
	{"*.example.org", []string{"example.org:8081", "spire.example.org:8081", "badexample.org:8081"}},
	{"**.example.org", []string{"spire.example.org:8081", "*spire.example.org:8081"}},
	{"*example.org", []string{"spire.example.org:8081", "badexample.org:8081"}},
	{"EXAMPLE.ORG", []string{"example.org:8081"}},
	{"a, example.org ,b", []string{"example.org:8081", "b:8081", "c:8081"}},
	{"a example.org", []string{"example.org:8081"}},
	{",,example.org,,", []string{"example.org:8081"}},
	{"example.org:8081", []string{"example.org:8081", "example.org:443", "spire.example.org:8081"}},
	{".example.org:8081", []string{"example.org:8081", "spire.example.org:8081", "spire.example.org:1"}},
	{"*.example.org:8081", []string{"example.org:8081", "spire.example.org:8081", "spire.example.org:1"}},
	{"example.org:", []string{"example.org:8081"}},
	{"example.org:https", []string{"example.org:443"}},
	{"example.org:08081", []string{"example.org:8081"}},
	{":8081", []string{"example.org:8081", "a:8081"}},
	{".", []string{"example.org:8081", "example.org.:8081"}},
	{"http://example.org", []string{"example.org:8081"}},
	{"10.1.2.3", []string{"10.1.2.3:8081", "10.1.2.4:8081", "[::ffff:10.1.2.3]:8081", "a.10.1.2.3:1"}},
	{"10.1.2.3:8081", []string{"10.1.2.3:8081", "10.1.2.3:443"}},
	{"10.1.2.03", []string{"10.1.2.3:8081"}},
	{"10.0.0.0/8", []string{"10.1.2.3:8081", "11.1.2.3:8081", "[::ffff:10.1.2.3]:8081", "[fd00::1]:1", "10.example.org:1"}},
	{"10.1.2.3/8", []string{"10.9.9.9:8081"}},
	{"10.0.0.0/8:8081", []string{"10.1.2.3:8081"}},
	{"10.0.0.0/0", []string{"11.1.2.3:8081", "[fd00::1]:1"}},
	{"10.1.2.3/32", []string{"10.1.2.3:8081", "10.1.2.2:8081"}},
	{"10.0.0.0/33", []string{"10.1.2.3:8081"}},
	{"10.0.0.0/", []string{"10.1.2.3:8081"}},
	{"10.0.0.0/+8", []string{"10.1.2.3:8081"}},
	{"10.0.0.0/08", []string{"10.1.2.3:8081"}},
	{"10.*", []string{"10.1.2.3:8081"}},
	{"fd00::/8", []string{"[fd12::1]:8081", "[fe12::1]:8081", "10.1.2.3:1"}},
	{"::/0", []string{"[fd12::1]:8081", "10.1.2.3:1"}},
	{"::ffff:10.0.0.0/104", []string{"10.1.2.3:8081", "[::ffff:10.1.2.3]:8081"}},
	{"fd00::1", []string{"[fd00::1]:8081", "[fd00::2]:8081", "[FD00:0::1]:8081"}},
	{"[fd00::1]", []string{"[fd00::1]:8081"}},
	{"[fd00::1]:8081", []string{"[fd00::1]:8081", "[fd00::1]:443"}},
	{"::ffff:10.1.2.3", []string{"10.1.2.3:8081", "[::ffff:10.1.2.3]:8081"}},
	{"fe80::1", []string{"[fe80::1%eth0]:8081"}},
	{"fe80::1%eth0", []string{"[fe80::1%eth0]:8081"}},
	{"fe80::/10", []string{"[fe80::1%eth0]:8081"}},
	{"localhost", []string{"a.localhost:8081"}},
}

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
