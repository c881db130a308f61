// Certificates with names, and for which hosts they are by Go's crypto/x509: the table that finial's own rule is held against.
//
// Makes the table anew (from tests/peers/go):
//
//	go run ./hosts > ../../../identity/testdata/hosts.json
//
// Judges the hosts of a table anew, with the Go at hand, and prints it with these verdicts:
//
//	go run ./hosts FILE
package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"fmt"
	"log"
	"math/big"
	"net"
	"os"
	"time"
)

// Table is what is checked in.
type Table struct {
	Certificates [][]byte `json:"certificates"`
	Rows         []Row    `json:"rows"`
}

// Row is one host, and whether a certificate is for it.
type Row struct {
	Certificate int    `json:"certificate"`
	Host        string `json:"host"`
	Fits        bool   `json:"fits"`
}

var certificates = []struct {
	dns []string
	ips []string
}{
	{dns: []string{"node-1", "node-1.example"}},
	{dns: []string{"*.example", "Mixed.Case"}},
	{dns: []string{"*", "a.*.example", "*b.example", "trailing.example."}},
	{dns: []string{"with_underscore", "-dash.example", "dash-.example", "x..example", "a b"}},
	{dns: []string{"10.0.0.1"}, ips: []string{"192.0.2.7", "2001:db8::7"}},
	{ips: []string{"::ffff:192.0.2.8"}},
	{},
}

var hosts = []string{
	"node-1", "NODE-1", "node-1.", "node-1..", "node-1.example", "node-2", "", ".", "*", "x.example", "x.y.example", "*.example",
	"mixed.case", "a.x.example", "ab.example", "*b.example", "trailing.example", "trailing.example.", "with_underscore",
	"-dash.example", "dash-.example", "x..example", "a b", "10.0.0.1", "192.0.2.7", "[192.0.2.7]", "2001:db8::7", "[2001:db8::7]",
	"2001:0db8:0::7", "192.0.2.8", "::ffff:192.0.2.8", "192.0.2.07", "[]", "bücher.example",
}

func main() {
	log.SetFlags(0)
	table := &Table{}
	if len(os.Args) > 1 {
		content, err := os.ReadFile(os.Args[1])
		must(err)
		must(json.Unmarshal(content, table))
	} else {
		for number, names := range certificates {
			table.Certificates = append(table.Certificates, certificate(names.dns, names.ips))
			for _, host := range hosts {
				table.Rows = append(table.Rows, Row{Certificate: number, Host: host})
			}
		}
	}
	for at := range table.Rows {
		row := &table.Rows[at]
		parsed, err := x509.ParseCertificate(table.Certificates[row.Certificate])
		must(err)
		row.Fits = parsed.VerifyHostname(row.Host) == nil
	}
	print(table)
}

func certificate(dns, ips []string) []byte {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: "node-1"},
		NotBefore:    time.Unix(0, 0),
		NotAfter:     time.Unix(1<<32, 0),
		DNSNames:     dns,
	}
	for _, ip := range ips {
		template.IPAddresses = append(template.IPAddresses, net.ParseIP(ip))
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	must(err)
	return der
}

// print writes one row on each line, so that a change of the table can be read.
func print(table *Table) {
	fmt.Println("{\"certificates\": [")
	lines(len(table.Certificates), func(at int) any { return table.Certificates[at] })
	fmt.Println("], \"rows\": [")
	lines(len(table.Rows), func(at int) any { return table.Rows[at] })
	fmt.Println("]}")
}

func lines(count int, element func(int) any) {
	for at := range count {
		text, err := json.Marshal(element(at))
		must(err)
		comma := ","
		if at == count-1 {
			comma = ""
		}
		fmt.Printf("%s%s\n", text, comma)
	}
}

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
