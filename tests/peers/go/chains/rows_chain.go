package main

import (
	"fmt"
	"slices"
	"time"
)

var none = []*Cert{}

func list(certs ...*Cert) []*Cert { return certs }

func plain(g *Group) {
	r := root("root", keyed(ec("root")))
	ca := r.subordinate("ca", keyed(ec("ca")))
	g.row("root and leaf", r.leaf(), none, r)
	g.row("root, CA and leaf", ca.leaf(), list(ca), r)
	g.row("no roots", r.leaf(), none)
	g.row("another root", r.leaf(), none, root("other"))
	g.row("the root's name with another key", r.leaf(), none, root("root", keyed(ed("impostor"))))
	g.row("the CA is not sent", ca.leaf(), none, r)
	g.row("the CA is the anchor", ca.leaf(), none, ca)
	g.row("the root is sent too", ca.leaf(), list(ca, r), r)
	g.row("the root is sent and not trusted", r.leaf(), list(r), root("other"))
	g.row("the issuer's name in other letters", r.leaf(issuedBy(name("ROOT"))), none, r)
	g.row("the issuer's name as another kind of string",
		r.leaf(issuedBy(attribute(3, 0x13, "root"))), none, r)
	g.row("a spoiled signature", r.leaf(alter(func(s *Spec) { s.spoilSignature = true })), none, r)
	unnamed := root("", called(sequence()))
	g.row("a root without a name", unnamed.leaf(), none, unnamed)
	organisation := root("root", called(attribute(10, 0x0c, "Organisation")), keyed(ed("o")))
	impostor := root("root", called(attribute(10, 0x0c, "Organisation")), keyed(ed("p")))
	g.row("the hint names an organisation", organisation.leaf(), none, impostor)
	serial := root("root", called(sequence()), keyed(ed("q")), serial(0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1))
	g.row("the hint names a serial number", unnamed.leaf(), none, serial)
}

func validity(g *Group) {
	r := root("root")
	hour := time.Hour
	ended, coming := until(now.Add(-hour)), since(now.Add(hour))
	g.row("leaf expired", r.leaf(ended), none, r)
	g.row("leaf not yet valid", r.leaf(coming), none, r)
	g.row("leaf's first second", r.leaf(since(now)), none, r)
	g.row("leaf's last second", r.leaf(until(now)), none, r)
	g.row("half a second after leaf's last", r.leaf(until(now)), none, r).At = now.Add(hour / 7200)
	g.row("half a second before leaf's first", r.leaf(since(now)), none, r).At = now.Add(-hour / 7200)
	for _, option := range []struct {
		what   string
		change Option
	}{{"expired", ended}, {"not yet valid", coming}} {
		ca := r.subordinate("ca", option.change)
		old := root("root", option.change)
		g.row("CA "+option.what, ca.leaf(), list(ca), r)
		g.row("root "+option.what, r.leaf(), none, old)
		g.row("root "+option.what+" above a CA", r.subordinate("ca").leaf(), list(r.subordinate("ca")), old)
		g.row("root "+option.what+", and one of its key that is not", r.leaf(), none, old, r)
		g.row("root "+option.what+", the other way round", r.leaf(), none, r, old)
		g.row("root "+option.what+", and one of its name that is not", r.leaf(), none, old,
			root("root", keyed(ed("impostor"))))
		g.row("root "+option.what+", and a CA of another root", r.leaf(),
			list(root("other").subordinate("root", keyed(ed("root root")))), old, root("other"))
		g.row("CA "+option.what+", and one of its key that is not", ca.leaf(), list(ca, r.subordinate("ca")), r)
	}
	far := time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC)
	g.row("GeneralizedTime", r.leaf(until(far)), none, root("root", until(far)))
	g.row("leaf is long past", r.leaf(), none, r).At = far
	written := func(text string) Option { return alter(func(s *Spec) { s.from = tlv(0x17, []byte(text)) }) }
	g.row("UTCTime of 1950", r.leaf(written("500101000000Z")), none, r)
	g.row("UTCTime without seconds", r.leaf(written("2601010000Z")), none, r)
	g.row("UTCTime with an offset", r.leaf(written("260601134500+0200")), none, r)
	g.row("UTCTime with an offset of zero", r.leaf(written("260601000000+0000")), none, r)
	g.row("UTCTime of a 30th of February", r.leaf(written("260230000000Z")), none, r)
	generalized := func(text string) Option { return alter(func(s *Spec) { s.from = tlv(0x18, []byte(text)) }) }
	g.row("GeneralizedTime with a fraction", r.leaf(generalized("20260101000000.5Z")), none, r)
	g.row("GeneralizedTime before 2050", r.leaf(generalized("20260101000000Z")), none, r)
	g.row("GeneralizedTime without a zone", r.leaf(generalized("20260101000000")), none, r)
}

func pathLength(g *Group) {
	for length := range 3 {
		r := root("root", only(caOf(byte(length))))
		chain := list(r)
		for count := range 4 {
			last := chain[len(chain)-1]
			g.row(fmt.Sprintf("root's length %d, %d CAs below", length, count), last.leaf(), chain[1:], r)
			chain = append(chain, last.subordinate(fmt.Sprint("ca ", count)))
		}
	}
	r := root("root")
	zero := r.subordinate("zero", only(caOf(0)))
	below := zero.subordinate("below")
	g.row("CA's length 0 and a leaf", zero.leaf(), list(zero), r)
	g.row("CA's length 0 and a CA below", below.leaf(), list(zero, below), r)
	same := zero.subordinate("zero", keyed(ed("new key")), only(ca()))
	g.row("CA's length 0 and a self-issued CA below", same.leaf(), list(zero, same), r)
	g.row("a length in a CA that may not sign", r.subordinate("no", only(basicConstraints(integer(0)))).leaf(),
		list(r.subordinate("no", only(basicConstraints(integer(0))))), r)
	g.row("a length in the leaf", r.leaf(with(caOf(0))), none, r)
	g.row("a negative length", r.leaf(with(basicConstraints(yes, integer(0xff)))), none, r)
	huge := root("root", only(basicConstraints(yes, integer(0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff))))
	g.row("a huge length", huge.leaf(), none, huge)
	over := r.leaf(with(basicConstraints(yes, integer(0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff))))
	g.row("a length that is no int", over, none, r)
	long := list(r)
	for count := range 20 {
		last := long[len(long)-1]
		switch count {
		case 9, 10, 11, 19:
			g.row(fmt.Sprintf("%d CAs", count), last.leaf(), long[1:], r)
		}
		long = append(long, last.subordinate(fmt.Sprint("ca ", count)))
	}
}

func versions(g *Group) {
	for v := byte(1); v <= 4; v++ {
		r := root("root", version(v))
		g.row(fmt.Sprintf("root of version %d", v), r.leaf(), none, r)
		ca := root("root").subordinate("ca", version(v))
		g.row(fmt.Sprintf("CA of version %d", v), ca.leaf(), list(ca), root("root"))
		g.row(fmt.Sprintf("leaf of version %d", v), root("root").leaf(version(v)), none, root("root"))
	}
	for _, made := range []struct {
		what       string
		extensions []Ext
	}{
		{"no basic constraints", []Ext{subjectKey("k")}},
		{"basic constraints of no CA", []Ext{basicConstraints()}},
		{"a key usage without certSign", []Ext{ca(), keyUsage(7, 0x80)}},
		{"a key usage with certSign", []Ext{ca(), keyUsage(2, 0x04)}},
		{"an empty key usage", []Ext{ca(), ce(15, bits(0)).crit()}},
	} {
		r := root("root", only(made.extensions...))
		g.row("root with "+made.what, r.leaf(), none, r)
		c := root("root").subordinate("ca", only(made.extensions...))
		g.row("CA with "+made.what, c.leaf(), list(c), root("root"))
	}
}

func anchors(g *Group) {
	r := root("root")
	leaf := r.leaf()
	own := root("leaf", uris("spiffe://td.example/web"))
	g.row("the leaf is an anchor, self-signed", own, none, own)
	g.row("the leaf is an anchor, signed by another", leaf, none, leaf)
	g.row("the leaf is no anchor, self-signed", own, none, r)
	g.row("the leaf is self-signed and sent twice", own, list(own), r)
	old := root("leaf", uris("spiffe://td.example/web"), until(now.Add(-time.Hour)))
	g.row("the leaf is an anchor and expired", old, none, old)
	unknown := root("leaf", with(unknownExt().crit()))
	g.row("the leaf is an anchor with an unknown critical extension", unknown, none, unknown)
	coding := root("leaf", with(extKeyUsage(purpose(codeSign))))
	g.row("the leaf is an anchor for another purpose", coding, none, coding).Usage = "server"
	excluding := root("leaf", only(ca(), san(uri("spiffe://td.example/web")), nameConstraints(excluded(uri("td.example")))))
	g.row("the leaf is an anchor that excludes itself", excluding, none, excluding)
	g.row("a root is the leaf", r, none, r)
	g.row("an anchor's own signature is spoiled", r.leaf(), none,
		root("root", alter(func(s *Spec) { s.spoilSignature = true })))
	g.row("an anchor that others have signed", r.leaf(), none, root("other").subordinate("root", keyed(ed("root root"))))
	g.row("an anchor with an unknown critical extension", r.leaf(), none, root("root", with(unknownExt().crit())))
	g.row("an anchor that cannot be read, and a good one", r.leaf(), none, root("root", version(4)), r)
	g.row("the same anchor twice", r.leaf(), none, r, r)
}

func manyRoots(g *Group) {
	plainRoots, keyedRoots := list(), list()
	for count := range 150 {
		own := keyed(ed(fmt.Sprint("many ", count%10)))
		id := subjectKey(fmt.Sprint("key ", count))
		plainRoots = append(plainRoots, root("one name", own, serial(1, byte(count))))
		keyedRoots = append(keyedRoots, root("one name", own, serial(2, byte(count)), with(id)))
	}
	signer := root("one name")
	signerWithKey := root("one name", with(subjectKey("signer")))
	named := signer.leaf(with(authorityKey("signer")))
	g.row("150 of one name, the signer last, key identifiers", named, none, append(keyedRoots, signerWithKey)...)
	g.row("150 of one name, the signer last, no key identifiers", signer.leaf(), none, append(plainRoots, signer)...)
	g.row("150 of one name, the signer first, no key identifiers", signer.leaf(), none,
		append(list(signer), plainRoots...)...)
	g.row("99 of one name, the signer last", signer.leaf(), none, append(slices.Clone(plainRoots[:99]), signer)...)
	g.row("100 of one name, the signer last", signer.leaf(), none, append(slices.Clone(plainRoots[:100]), signer)...)
	g.row("150 with key identifiers, the signer has none and is last", named, none, append(keyedRoots, signer)...)
	g.row("150 without key identifiers, the signer has one and is last", named, none,
		append(plainRoots, signerWithKey)...)
	g.row("150 without key identifiers, one too in the leaf that the signer lacks", named, none,
		append(plainRoots, signer)...)
	g.row("150 of one name and none is the signer", signer.leaf(), none, plainRoots...)
	others := list()
	for count := range 150 {
		others = append(others, root(fmt.Sprint("name ", count%10), serial(3, byte(count))))
	}
	g.row("150 of other names, the signer last", signer.leaf(), none, append(others, signer)...)
	g.row("two that differ in their key alone, the signer first", signer.leaf(), none, signer, plainRoots[0])
	g.row("two that differ in their key alone, the signer last", signer.leaf(), none, plainRoots[0], signer)
	wrong := root("one name", with(subjectKey("another")))
	g.row("the signer's key identifier is not the leaf's", named, none, wrong)
}

func search(g *Group) {
	r, other := root("root"), root("other")
	a := r.subordinate("a")
	b := a.subordinate("b")
	c := b.subordinate("c")
	g.row("in order", c.leaf(), list(c, b, a), r)
	g.row("in reverse order", c.leaf(), list(a, b, c), r)
	g.row("in no order, with others between", c.leaf(), list(b, other, other.subordinate("x"), c, r, a), r)
	g.row("one is missing", c.leaf(), list(c, a), r)
	g.row("one is sent twice", c.leaf(), list(c, b, b, a), r)
	g.row("the leaf is sent twice", c.leaf(), list(c.leaf(), c, b, a), r)
	g.row("one that nobody needs cannot be read", a.leaf(), list(a, root("bad", version(4))), r)
	g.row("one that nobody needs is expired", a.leaf(), list(a, r.subordinate("z", until(now.Add(-time.Hour)))), r)
	cross := other.subordinate("root", keyed(ed("root root")))
	g.row("a cross-signed root leads to another anchor", a.leaf(), list(a, cross), other)
	g.row("a cross-signed root beside its own anchor", a.leaf(), list(a, cross), r, other)
	g.row("a cross-signed root, expired, beside its own anchor", a.leaf(),
		list(other.subordinate("root", keyed(ed("root root")), until(now.Add(-time.Hour))), a), r)
	x := other.subordinate("a", keyed(ed("ca a")))
	g.row("a CA of two parents, one trusted", a.leaf(), list(a, x), other)
	g.row("a CA of two parents, one trusted, the other way round", a.leaf(), list(x, a), r)
	g.row("a CA of two parents, none trusted", a.leaf(), list(a, x), root("third"))
	p, q := root("p").subordinate("p"), root("q").subordinate("q")
	pq, qp := p.subordinate("q", keyed(ed("ca q"))), q.subordinate("p", keyed(ed("ca p")))
	g.row("two CAs that have signed each other", p.leaf(), list(pq, qp), r)
	g.row("two CAs that have signed each other, and a way out", p.leaf(), list(pq, qp, p), root("p"))
	ladder := list(r)
	chain := list()
	for level := range 5 {
		last := ladder[len(ladder)-1]
		for copy := range 4 {
			chain = append(chain, last.subordinate(fmt.Sprint("level ", level), keyed(ed("ladder")), serial(byte(copy+1)), with(subjectKey(fmt.Sprint(copy)))))
		}
		ladder = append(ladder, chain[len(chain)-1])
	}
	last := ladder[len(ladder)-1]
	g.row("many ways to nowhere", last.leaf(), chain, other)
	g.row("many ways to the root", last.leaf(), chain, r)
	withNames := func(uri string) *Cert {
		return r.subordinate("root", keyed(ed("root root")), only(ca(), san(dns(uri))))
	}
	g.row("the root's own key with another SAN", r.leaf(), list(withNames("one"), withNames("two")), other)
	notCA := r.subordinate("a", only(san(uri("spiffe://td.example/x"))))
	g.row("a leaf signs", notCA.leaf(), list(notCA), r)
	g.row("a CA of its name may sign, and it may not", notCA.leaf(), list(notCA, a), r)
	expired := r.subordinate("a", until(now.Add(-time.Hour)))
	g.row("an expired CA, and one that others have signed", a.leaf(), list(expired, x), r)
	g.row("the same the other way round", a.leaf(), list(x, expired), r)
}
