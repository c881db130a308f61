package main

import (
	"crypto/elliptic"
	"crypto/x509"
	"fmt"
	"strings"
)

// everywhere puts extensions into the leaf, the CA and the root, each in turn.
func everywhere(g *Group, what string, extensions ...Ext) {
	r := root("root")
	odd := root("root", with(extensions...))
	below := r.subordinate("ca", with(extensions...))
	g.row(what+" in the leaf", r.leaf(with(extensions...)), none, r)
	g.row(what+" in the CA", below.leaf(), list(below), r)
	g.row(what+" in the root", odd.leaf(), none, odd)
}

func extensions(g *Group) {
	everywhere(g, "critical policies", certPolicies(anyPolicy).crit())
	everywhere(g, "an unknown critical extension", unknownExt().crit())
	everywhere(g, "an unknown extension", unknownExt())
	everywhere(g, "a critical extended key usage", extKeyUsage(purpose(serverAuth)).crit())
	everywhere(g, "critical policy mappings", policyMappings().crit())
	everywhere(g, "critical policy constraints", ce(36, sequence(tlv(0x80, []byte{5}))).crit())
	everywhere(g, "critical inhibitAnyPolicy", ce(54, integer(5)).crit())
	everywhere(g, "critical CRL distribution points", ce(31, sequence()).crit())
	everywhere(g, "a critical issuer alternative name", ce(18, sequence(uri("http://ca.example"))).crit())
	everywhere(g, "a critical subject key identifier", subjectKey("k").crit())
	everywhere(g, "a critical authority key identifier", authorityKey("k").crit())
	access := Ext{oid(1, 3, 6, 1, 5, 5, 7, 1, 1), true, sequence()}
	everywhere(g, "critical authority information access", access)
	everywhere(g, "an extension twice", unknownExt(), unknownExt())
	r := root("root")
	other := tlv(0xa0, oid(1, 2, 3), tlv(0xa0, null))
	g.row("a critical SAN", r.leaf(only(san(uri("spiffe://td.example/web")).crit())), none, r)
	g.row("a critical SAN of otherName alone", r.leaf(only(san(other).crit())), none, r)
	g.row("a SAN of otherName alone", r.leaf(names(other)), none, r)
	g.row("a critical SAN of otherName and a URI", r.leaf(only(san(other, uri("spiffe://td.example/web")).crit())), none, r)
	g.row("no SAN", r.leaf(only()), none, r)
}

func policies(g *Group) {
	require := func(skip byte) Ext { return ce(36, sequence(tlv(0x80, []byte{skip}))) }
	inhibitMapping := ce(36, sequence(tlv(0x80, []byte{0}), tlv(0x81, []byte{0})))
	inhibitAny := ce(54, integer(0))
	r := root("root")
	chain := func(what string, ca []Ext, leaf []Ext) {
		below := r.subordinate("ca", with(ca...))
		g.row(what, below.leaf(with(leaf...)), list(below), r)
	}
	one, two := certPolicies(policy(1)), certPolicies(policy(2))
	whichever := certPolicies(anyPolicy)
	mapped := policyMappings(sequence(policy(1), policy(2)))
	chain("required, none has any", []Ext{require(0)}, nil)
	chain("required, the leaf has none", []Ext{require(0), one}, nil)
	chain("required, the CA has none", []Ext{require(0)}, []Ext{one})
	chain("required, both have the same", []Ext{require(0), one}, []Ext{one})
	chain("required, each has another", []Ext{require(0), one}, []Ext{two})
	chain("required, the CA has any", []Ext{require(0), whichever}, []Ext{two})
	chain("required, the leaf has any", []Ext{require(0), one}, []Ext{whichever})
	chain("required, any is inhibited in the leaf", []Ext{require(0), one, inhibitAny}, []Ext{whichever})
	chain("required, mapped", []Ext{require(0), one, mapped}, []Ext{two})
	chain("required, mapped away", []Ext{require(0), one, mapped}, []Ext{one})
	chain("required, mapped from any", []Ext{require(0), whichever, mapped}, []Ext{two})
	chain("required, mapping inhibited", []Ext{inhibitMapping, one, mapped}, []Ext{two})
	chain("required later than the chain is long", []Ext{require(3)}, nil)
	chain("required after one", []Ext{require(1)}, nil)
	chain("required by the leaf", nil, []Ext{require(0)})
	chain("required by the leaf, which has one", nil, []Ext{require(0), one})
	chain("not required, each has another", []Ext{one}, []Ext{two})
	chain("mapped to any", []Ext{one, policyMappings(sequence(policy(1), anyPolicy))}, []Ext{one})
	chain("mapped to any, no policies", []Ext{policyMappings(sequence(policy(1), anyPolicy))}, nil)
	chain("a policy twice", []Ext{certPolicies(policy(1), policy(1))}, nil)
	demanding := root("root", with(require(0)))
	g.row("required by the root alone", demanding.leaf(), none, demanding)
	upper := r.subordinate("upper", with(require(0), whichever, policyMappings(sequence(policy(1), policy(2)))))
	for _, found := range []struct {
		what string
		exts []Ext
	}{{"goes on", []Ext{two}}, {"breaks off", []Ext{one}}, {"has any", []Ext{whichever}}, {"has any, inhibited", []Ext{whichever, inhibitAny}}} {
		lower := upper.subordinate("lower", with(found.exts...))
		g.row("two CAs, mapped above, the lower "+found.what, lower.leaf(with(two)), list(upper, lower), r)
	}
	again := upper.subordinate("upper", keyed(ed("again")), with(whichever, inhibitAny))
	g.row("two CAs of one name, any", again.leaf(with(two)), list(upper, again), r)
}

func algorithms(g *Group) {
	for _, curved := range []struct {
		name  string
		curve elliptic.Curve
	}{{"P-224", elliptic.P224()}, {"P-256", elliptic.P256()}, {"P-384", elliptic.P384()}, {"P-521", elliptic.P521()}} {
		for _, hash := range []struct {
			name string
			alg  Algorithm
		}{{"SHA-256", ecdsaSHA256}, {"SHA-384", ecdsaSHA384}, {"SHA-512", ecdsaSHA512}} {
			r := root("root", keyed(curve(curved.name, curved.curve)))
			g.row("ECDSA "+curved.name+" with "+hash.name, r.leaf(signedAs(hash.alg)), none, r)
		}
	}
	r := root("root")
	g.row("Ed25519", r.leaf(), none, r)
	for _, size := range []int{1024, 2048, 3072, 4096, 8192} {
		r := root("root", keyed(rsaKey(size)), signedAs(rsaSHA256))
		for _, hash := range []struct {
			name string
			alg  Algorithm
		}{
			{"SHA-256", rsaSHA256}, {"SHA-384", rsaSHA384}, {"SHA-512", rsaSHA512},
			{"PSS SHA-256", pssSHA256}, {"PSS SHA-384", pssSHA384}, {"PSS SHA-512", pssSHA512},
		} {
			// 1024 bits are too few for PSS with SHA-512.
			if size == 2048 || hash.name == "SHA-256" || size < 2048 && hash.name != "PSS SHA-512" {
				g.row(fmt.Sprintf("RSA %d with %s", size, hash.name), r.leaf(signedAs(hash.alg)), none, r)
			}
		}
	}
	rsaRoot := root("root", keyed(rsaKey(2048)), signedAs(rsaSHA256))
	below := rsaRoot.subordinate("ca", keyed(ed("ed25519")))
	g.row("RSA signs Ed25519 signs ECDSA", below.leaf(), list(below), rsaRoot)
	g.row("a leaf with an RSA key", root("root").leaf(keyed(rsaKey(2048))), none, root("root"))
	g.row("a leaf with a P-224 key", root("root").leaf(keyed(curve("P-224", elliptic.P224()))), none, root("root"))
	old := root("root", keyed(rsaKey(2048)), signedAs(rsaSHA1))
	g.row("a root that has signed itself with SHA-1", old.leaf(signedAs(rsaSHA256)), none, old)
	older := root("root", keyed(rsaKey(2048)), signedAs(rsaMD5))
	g.row("a root that has signed itself with MD5", older.leaf(signedAs(rsaSHA256)), none, older)
}

func weakAlgorithms(g *Group) {
	r := root("root", keyed(rsaKey(2048)), signedAs(rsaSHA256))
	curved := root("root", keyed(ec("root")))
	g.row("RSA with SHA-1", r.leaf(signedAs(rsaSHA1)), none, r)
	g.row("RSA with MD5", r.leaf(signedAs(rsaMD5)), none, r)
	g.row("ECDSA with SHA-1", curved.leaf(signedAs(ecdsaSHA1)), none, curved)
	ca := r.subordinate("ca", signedAs(rsaSHA1))
	g.row("a CA signed with SHA-1", ca.leaf(), list(ca), r)
	g.row("PSS with a salt of another length", r.leaf(signedAs(pss(pssSHA256.hash, 1, 20))), none, r)
	small := root("root", keyed(rsaKey(1016)), signedAs(rsaSHA256))
	g.row("RSA 1016", small.leaf(), none, small)
	claimed := func(a Algorithm) Option {
		return alter(func(s *Spec) { s.algorithm = Algorithm{a.identifier, s.algorithm.hash, nil} })
	}
	g.row("an ECDSA signature that says it is RSA", curved.leaf(claimed(rsaSHA256)), none, curved)
	g.row("an RSA signature that says it is ECDSA", r.leaf(claimed(ecdsaSHA256)), none, r)
	g.row("an ECDSA signature that says it is Ed25519", curved.leaf(claimed(pureEd25519)), none, curved)
	g.row("an RSA signature that says it has another hash", r.leaf(claimed(rsaSHA384)), none, r)
	g.row("an RSA signature that says it is PSS", r.leaf(claimed(pssSHA256)), none, r)
	edRoot := root("root")
	g.row("an Ed25519 signature that says it is ECDSA", edRoot.leaf(claimed(ecdsaSHA256)), none, edRoot)
	g.row("a spoiled Ed25519 signature", edRoot.leaf(alter(func(s *Spec) { s.spoilSignature = true })), none, edRoot)
	g.row("a spoiled RSA signature", r.leaf(alter(func(s *Spec) { s.spoilSignature = true })), none, r)
	g.row("an unknown signature algorithm", curved.leaf(claimed(Algorithm{identifier: sequence(oid(1, 2, 3, 4))})), none, curved)
	withNull := Algorithm{identifier: sequence(oid(1, 3, 101, 112), null)}
	g.row("Ed25519 with parameters", edRoot.leaf(claimed(withNull)), none, edRoot)
	bare := Algorithm{identifier: sequence(oid(1, 2, 840, 113549, 1, 1, 11))}
	g.row("RSA without parameters of the signature", r.leaf(claimed(bare)), none, r)
	odd := Algorithm{identifier: sequence(oid(1, 2, 840, 10045, 4, 3, 2), null)}
	g.row("ECDSA with parameters of the signature", curved.leaf(claimed(odd)), none, curved)
	g.row("another algorithm outside than inside",
		curved.leaf(alter(func(s *Spec) { s.outerAlgorithm = ecdsaSHA384.identifier })), none, curved)
	unknown := root("root", alter(func(s *Spec) { s.spki = sequence(sequence(oid(1, 2, 3, 4)), bits(0, 1)) }))
	g.row("a root with an unknown kind of key", unknown.leaf(), none, unknown)
	g.row("a leaf with an unknown kind of key", curved.leaf(alter(func(s *Spec) { s.spki = unknown.spec.spki })), none, curved)
	spki, err := x509.MarshalPKIXPublicKey(rsaKey(2048).Public())
	must(err)
	noNull := sequence(sequence(oid(1, 2, 840, 113549, 1, 1, 1)), spki[len(spki)-275:])
	g.row("an RSA key without its NULL", curved.leaf(alter(func(s *Spec) { s.spki = noNull })), none, curved)
	point := sequence(sequence(oid(1, 2, 840, 10045, 2, 1), oid(1, 2, 840, 10045, 3, 1, 7)), bits(0, 4, 1, 2, 3))
	g.row("a key that is no point", curved.leaf(alter(func(s *Spec) { s.spki = point })), none, curved)
	k1 := sequence(sequence(oid(1, 2, 840, 10045, 2, 1), oid(1, 3, 132, 0, 10)), bits(0, 4, 1, 2, 3))
	g.row("a key on an unknown curve", curved.leaf(alter(func(s *Spec) { s.spki = k1 })), none, curved)
	short := sequence(sequence(oid(1, 3, 101, 112)), bits(0, 1, 2, 3))
	g.row("an Ed25519 key that is too short", curved.leaf(alter(func(s *Spec) { s.spki = short })), none, curved)
}

func usages(g *Group) {
	server, client, code := purpose(serverAuth), purpose(clientAuth), purpose(codeSign)
	for _, chain := range []struct {
		what           string
		root, ca, leaf []Ext
	}{
		{"none", nil, nil, nil},
		{"leaf: server", nil, nil, []Ext{extKeyUsage(server)}},
		{"leaf: client", nil, nil, []Ext{extKeyUsage(client)}},
		{"leaf: both", nil, nil, []Ext{extKeyUsage(server, client)}},
		{"leaf: another", nil, nil, []Ext{extKeyUsage(code)}},
		{"leaf: any", nil, nil, []Ext{extKeyUsage(anyPurpose)}},
		{"leaf: unknown", nil, nil, []Ext{extKeyUsage(oid(1, 2, 3, 4))}},
		{"leaf: empty", nil, nil, []Ext{extKeyUsage()}},
		{"CA: server", nil, []Ext{extKeyUsage(server)}, nil},
		{"CA: server, leaf: both", nil, []Ext{extKeyUsage(server)}, []Ext{extKeyUsage(server, client)}},
		{"CA: any, leaf: server", nil, []Ext{extKeyUsage(anyPurpose)}, []Ext{extKeyUsage(server)}},
		{"CA: client, leaf: server", nil, []Ext{extKeyUsage(client)}, []Ext{extKeyUsage(server)}},
		{"root: client, leaf: server", []Ext{extKeyUsage(client)}, nil, []Ext{extKeyUsage(server)}},
		{"root: unknown", []Ext{extKeyUsage(oid(1, 2, 3, 4))}, nil, nil},
	} {
		r := root("root", with(chain.root...))
		ca := r.subordinate("ca", with(chain.ca...))
		for _, usage := range []string{"any", "server", "client", "either"} {
			row := g.row(chain.what+"; for "+usage, ca.leaf(with(chain.leaf...)), list(ca), r)
			row.Usage = usage
		}
	}
}

func svids(g *Group) {
	r := root("root")
	id := san(uri("spiffe://td.example/web"))
	svid := func(what string, leaf *Cert, roots ...*Cert) { g.row(what, leaf, none, roots...).Usage = "svid" }
	svid("an SVID", r.leaf(), r)
	svid("for code signing", r.leaf(with(extKeyUsage(purpose(codeSign)))), r)
	svid("a CA", r.leaf(only(id, ca())), r)
	svid("basic constraints of no CA", r.leaf(only(id, basicConstraints())), r)
	svid("certSign", r.leaf(only(id, keyUsage(2, 0x04))), r)
	svid("cRLSign", r.leaf(only(id, keyUsage(1, 0x02))), r)
	svid("digitalSignature", r.leaf(only(id, keyUsage(7, 0x80))), r)
	svid("a CA with certSign", r.leaf(only(id, ca(), keyUsage(2, 0x04))), r)
	svid("no SAN", r.leaf(only()), r)
	svid("a DNS name alone", r.leaf(names(dns("web.example"))), r)
	svid("a URI and a DNS name", r.leaf(names(dns("web.example"), uri("spiffe://td.example/web"))), r)
	svid("two URIs", r.leaf(uris("spiffe://td.example/web", "spiffe://td.example/db")), r)
	svid("the same URI twice", r.leaf(uris("spiffe://td.example/web", "spiffe://td.example/web")), r)
	svid("the scheme in upper case", r.leaf(uris("SPIFFE://td.example/web")), r)
	svid("an empty fragment", r.leaf(uris("spiffe://td.example/web#")), r)
	svid("a CA of another root", r.leaf(only(id, ca())), root("other"))
	g.row("two URIs, and nobody asks", r.leaf(uris("spiffe://td.example/web", "https://web.example")), none, r)
	g.row("a CA as leaf, and nobody asks", r.leaf(only(id, ca(), keyUsage(2, 0x04))), none, r)
}

func encoding(g *Group) {
	r := root("root")
	leaf := func(what string, options ...Option) { g.row(what, r.leaf(options...), none, r) }
	leaf("bytes behind the certificate", alter(func(s *Spec) { s.trailing = []byte{0} }))
	leaf("a negative serial number", serial(0x80))
	leaf("a serial number of zero", serial(0))
	leaf("a serial number of 30 bytes", serial([]byte(strings.Repeat("\x11", 30))...))
	leaf("a serial number with a zero too many", serial(0, 1))
	leaf("an empty serial number", serial())
	leaf("an underscore in a PrintableString", called(attribute(3, 0x13, "a_b")))
	leaf("an asterisk and an ampersand in a PrintableString", called(attribute(3, 0x13, "*&")))
	leaf("bad UTF-8 in a name", called(attribute(3, 0x0c, "\xff")))
	leaf("Latin-1 in a T61String", called(attribute(3, 0x14, "\xe9")))
	leaf("a BMPString", called(attribute(3, 0x1e, "\x00a")))
	leaf("a BMPString of odd length", called(attribute(3, 0x1e, "\x00a\x00")))
	leaf("half a surrogate in a BMPString", called(attribute(3, 0x1e, "\xd8\x00")))
	leaf("an IA5String in a name", called(attribute(3, 0x16, "a@b")))
	leaf("bytes beyond ASCII in an IA5String", called(attribute(3, 0x16, "\xe9")))
	leaf("letters in a NumericString", called(attribute(3, 0x12, "1a")))
	leaf("a UniversalString in a name", called(attribute(3, 0x1c, "\x00\x00\x00a")))
	leaf("an integer in a name", called(sequence(set(sequence(oid(2, 5, 4, 3), integer(1))))))
	leaf("a name that is no sequence", called(octets()))
	leaf("a basic constraints extension that is no sequence", with(ce(19, octets())))
	leaf("a boolean that is neither", with(ce(19, sequence([]byte{1, 1, 1}))))
	leaf("a key usage that is no bit string", with(ce(15, octets())))
	leaf("a key usage with set padding", with(ce(15, bits(1, 0x81))))
	leaf("an extended key usage that is no list", with(ce(37, sequence(octets()))))
	leaf("a subject key identifier that is no string", with(ce(14, sequence())))
	leaf("an authority key identifier without a key", with(ce(35, sequence())))
	leaf("CRL distribution points of a number", with(ce(31, sequence(integer(1)))))
	leaf("an IP address of five bytes", names(ip(1, 2, 3, 4, 5)))
	leaf("bytes beyond ASCII in a DNS name", names(dns("\xe9")))
	leaf("an empty DNS name", names(dns("")))
	leaf("bytes beyond ASCII in a URI", uris("spiffe://td.example/\xe9"))
	for _, text := range []string{
		"spiffe://td example/web", "spiffe://td.example/a b", "spiffe://td.example/%zz", "spiffe://td.example/%41",
		"spiffe://td.example./web", "spiffe://td..example/web", "spiffe://td.example:port/web", "spiffe://td.example:80/web",
		"spiffe://[::1]/web", "spiffe://[::1/web", "spiffe://[td]/web", "spiffe://td%41/web", "spiffe://td%c3%a9/web", "spiffe://td%25/web",
		"spiffe://user@td.example/web", "spiffe://us er@td.example/web", "spiffe:///web", "spiffe:web", "web", "web:80/x", "1web:80", ":web", "", "*",
		"spiffe://td.example/web#%zz", "spiffe://td.example/web?%zz", "spiffe://td.example/\x7f", "//td.example/web", "///td..example", "spiffe://td\\example/",
		"spiffe://a:b:80/", "http://a:b:80/", "spiffe://td.example:/", "spiffe://.td.example/", "spiffe://td{}/", "spiffe://u%zz@td/",
		"spiffe://[::1]x/", "spiffe://[fe80::1%25eth0]/", "spiffe://[1.2.3.4]/", "spiffe://x[::1]/",
		"web%zz", "web/%zz", "spiffe:%zz", "spiffe:/%zz", "spiffe:///%zz", "SPIFFE://td.example/web", "spiffe://td.example",
	} {
		leaf(fmt.Sprintf("the URI %q", text), uris(text))
	}
}
