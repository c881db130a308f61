package main

import (
	"encoding/asn1"
	"math/big"
	"slices"
	"time"
)

// DER, written by hand: what a library refuses to write must be in the table too.

func tlv(tag byte, parts ...[]byte) []byte {
	content := slices.Concat(parts...)
	length := big.NewInt(int64(len(content))).Bytes()
	if len(content) < 0x80 {
		return slices.Concat([]byte{tag, byte(len(content))}, content)
	}
	return slices.Concat([]byte{tag, 0x80 | byte(len(length))}, length, content)
}

func sequence(parts ...[]byte) []byte    { return tlv(0x30, parts...) }
func set(parts ...[]byte) []byte         { return tlv(0x31, parts...) }
func octets(parts ...[]byte) []byte      { return tlv(0x04, parts...) }
func bits(unused byte, b ...byte) []byte { return tlv(0x03, []byte{unused}, b) }
func integer(content ...byte) []byte     { return tlv(0x02, content) }

var null = []byte{5, 0}
var yes = []byte{1, 1, 0xff}

func oid(numbers ...int) []byte {
	der, err := asn1.Marshal(asn1.ObjectIdentifier(numbers))
	must(err)
	return der
}

// attribute is a name of one part.
func attribute(number int, tag byte, value string) []byte {
	return sequence(set(sequence(oid(2, 5, 4, number), tlv(tag, []byte(value)))))
}

// name is a common name.
func name(cn string) []byte { return attribute(3, 0x0c, cn) }

// moment is as RFC 5280 wants it.
func moment(t time.Time) []byte {
	if t.Year() < 2050 {
		return tlv(0x17, []byte(t.Format("060102150405Z")))
	}
	return tlv(0x18, []byte(t.Format("20060102150405Z")))
}

// Ext is an extension.
type Ext struct {
	id       []byte
	critical bool
	value    []byte
}

func (e Ext) der() []byte {
	if e.critical {
		return sequence(e.id, yes, octets(e.value))
	}
	return sequence(e.id, octets(e.value))
}

func (e Ext) crit() Ext {
	e.critical = true
	return e
}

// ce is one of RFC 5280's extensions.
func ce(number int, value []byte) Ext { return Ext{oid(2, 5, 29, number), false, value} }

func unknownExt() Ext { return Ext{oid(1, 3, 6, 1, 4, 1, 99999, 1), false, null} }

func basicConstraints(parts ...[]byte) Ext { return ce(19, sequence(parts...)).crit() }
func ca() Ext                              { return basicConstraints(yes) }
func caOf(length byte) Ext                 { return basicConstraints(yes, integer(length)) }
func keyUsage(unused byte, first byte) Ext { return ce(15, bits(unused, first)).crit() }
func subjectKey(id string) Ext             { return ce(14, octets([]byte(id))) }
func authorityKey(id string) Ext           { return ce(35, sequence(tlv(0x80, []byte(id)))) }
func san(names ...[]byte) Ext              { return ce(17, sequence(names...)) }
func extKeyUsage(purposes ...[]byte) Ext   { return ce(37, sequence(purposes...)) }
func certPolicies(policies ...[]byte) Ext  { return ce(32, sequence(each(policies, sequence)...)) }
func policyMappings(pairs ...[]byte) Ext   { return ce(33, sequence(pairs...)) }
func nameConstraints(lists ...[]byte) Ext  { return ce(30, sequence(lists...)) }
func permitted(names ...[]byte) []byte     { return tlv(0xa0, each(names, sequence)...) }
func excluded(names ...[]byte) []byte      { return tlv(0xa1, each(names, sequence)...) }
func uri(text string) []byte               { return tlv(0x86, []byte(text)) }
func dns(text string) []byte               { return tlv(0x82, []byte(text)) }
func email(text string) []byte             { return tlv(0x81, []byte(text)) }
func ip(bytes ...byte) []byte              { return tlv(0x87, bytes) }
func directory(rdns []byte) []byte         { return tlv(0xa4, rdns) }
func purpose(number int) []byte            { return oid(1, 3, 6, 1, 5, 5, 7, 3, number) }
func policy(number int) []byte             { return oid(1, 3, 6, 1, 4, 1, 99999, 2, number) }

var anyPurpose = oid(2, 5, 29, 37, 0)
var anyPolicy = oid(2, 5, 29, 32, 0)

const (
	serverAuth = 1
	clientAuth = 2
	codeSign   = 3
)

func each(list [][]byte, wrap func(...[]byte) []byte) [][]byte {
	wrapped := [][]byte{}
	for _, element := range list {
		wrapped = append(wrapped, wrap(element))
	}
	return wrapped
}
