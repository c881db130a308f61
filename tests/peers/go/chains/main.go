// Chains of certificates, and what Go's crypto/x509 says of each: the table that finial's own verifier is held against.
//
// Makes the table anew, with other keys and the same cases (from tests/peers/go):
//
//	go run ./chains > ../../../identity/testdata/chains.json
//
// Judges the chains of a table anew, with the Go at hand, and prints it with these verdicts:
//
//	go run ./chains FILE
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log"
	"os"
	"runtime"
	"time"
)

// Table is what is checked in. Certificates are numbered, since many stand in several rows.
type Table struct {
	MadeWith     string   `json:"made_with"`
	Certificates [][]byte `json:"certificates"`
	Rows         []Row    `json:"rows"`
}

// Row is one chain, when and for what it is verified, and what comes of it.
type Row struct {
	Group         string    `json:"group"`
	Name          string    `json:"name"`
	At            time.Time `json:"at"`
	Usage         string    `json:"usage"`
	Leaf          int       `json:"leaf"`
	Intermediates []int     `json:"intermediates"`
	Roots         []int     `json:"roots"`
	Verdict       string    `json:"verdict"`
	Error         string    `json:"error"`
}

func main() {
	log.SetFlags(0)
	table := &Table{MadeWith: runtime.Version()}
	if len(os.Args) > 1 {
		content, err := os.ReadFile(os.Args[1])
		must(err)
		must(json.Unmarshal(content, table))
	} else {
		for _, group := range groups {
			group.rows(&Group{table, group.name})
		}
	}
	// As Go 1.26 does by itself, whatever go.mod says.
	must(os.Setenv("GODEBUG", "urlstrictcolons=1"))
	for at := range table.Rows {
		row := &table.Rows[at]
		row.Verdict, row.Error = table.judge(row)
	}
	print(table)
}

var groups = []struct {
	name string
	rows func(*Group)
}{
	{"plain", plain},
	{"validity", validity},
	{"extensions", extensions},
	{"policies", policies},
	{"path length", pathLength},
	{"versions", versions},
	{"anchors", anchors},
	{"many roots", manyRoots},
	{"algorithms", algorithms},
	{"weak algorithms", weakAlgorithms},
	{"usage", usages},
	{"svid", svids},
	{"search", search},
	{"encoding", encoding},
	{"URI constraints", uriConstraints},
	{"DNS constraints", dnsConstraints},
	{"other constraints", otherConstraints},
}

// Group adds rows.
type Group struct {
	table *Table
	name  string
}

// row adds one that is verified at `now`, for any usage.
func (g *Group) row(name string, leaf *Cert, intermediates []*Cert, roots ...*Cert) *Row {
	numbers := func(certs []*Cert) []int {
		list := []int{}
		for _, cert := range certs {
			list = append(list, g.table.number(cert.der))
		}
		return list
	}
	g.table.Rows = append(g.table.Rows, Row{
		Group: g.name, Name: name, At: now, Usage: "any",
		Leaf: g.table.number(leaf.der), Intermediates: numbers(intermediates), Roots: numbers(roots),
	})
	return &g.table.Rows[len(g.table.Rows)-1]
}

func (t *Table) number(der []byte) int {
	for number, known := range t.Certificates {
		if bytes.Equal(known, der) {
			return number
		}
	}
	t.Certificates = append(t.Certificates, der)
	return len(t.Certificates) - 1
}

// print writes one row and one certificate a line, so that changes can be read.
func print(table *Table) {
	line := func(value any) string {
		text := &bytes.Buffer{}
		encoder := json.NewEncoder(text)
		encoder.SetEscapeHTML(false)
		must(encoder.Encode(value))
		return string(bytes.TrimSpace(text.Bytes()))
	}
	fmt.Printf("{\"made_with\":%s,\n\"certificates\":[\n", line(table.MadeWith))
	for at, der := range table.Certificates {
		fmt.Printf("%s%s\n", line(der), comma(at, len(table.Certificates)))
	}
	fmt.Print("],\n\"rows\":[\n")
	for at, row := range table.Rows {
		fmt.Printf("%s%s\n", line(row), comma(at, len(table.Rows)))
	}
	fmt.Print("]}\n")
}

func comma(at, count int) string {
	if at+1 < count {
		return ","
	}
	return ""
}

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

// now is when chains are verified; certificates are valid around it unless a row says otherwise.
var now = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)
