package main

import "fmt"

// constrained verifies a leaf with these names below a CA with these constraints, and below a root with them.
func constrained(g *Group, what string, constraints Ext, leafNames ...[]byte) {
	r := root("root")
	below := r.subordinate("ca", with(constraints))
	above := root("root", with(constraints))
	g.row(what+", in the CA", below.leaf(names(leafNames...)), list(below), r)
	g.row(what+", in the root", above.leaf(names(leafNames...)), none, above)
}

func uriConstraints(g *Group) {
	svid := uri("spiffe://td.example/web")
	for _, text := range []string{"td.example", ".td.example", "example", ".example", "TD.Example", "other.example", "d.example", "", "web.td.example"} {
		constrained(g, fmt.Sprintf("permitted %q", text), nameConstraints(permitted(uri(text))), svid)
		constrained(g, fmt.Sprintf("permitted %q, critical", text), nameConstraints(permitted(uri(text))).crit(), svid)
		constrained(g, fmt.Sprintf("excluded %q", text), nameConstraints(excluded(uri(text))), svid)
		constrained(g, fmt.Sprintf("excluded %q, critical", text), nameConstraints(excluded(uri(text))).crit(), svid)
	}
	one := func(what, name string, constraints Ext) { constrained(g, what, constraints, uri(name)) }
	allow := nameConstraints(permitted(uri("td.example")))
	one("a port", "spiffe://td.example:80/web", allow)
	one("upper case", "spiffe://TD.example/web", allow)
	one("user information", "spiffe://user@td.example/web", allow)
	one("a host below", "spiffe://a.td.example/web", allow)
	one("no host", "spiffe:///web", allow)
	one("no authority", "urn:web", allow)
	one("no host, and another kind constrained", "spiffe:///web", nameConstraints(permitted(dns("td.example"))))
	one("an address", "spiffe://10.1.2.3/web", allow)
	one("an IPv6 address", "spiffe://[::1]/web", allow)
	one("an IPv6 address and a port", "spiffe://[::1]:80/web", allow)
	one("two colons", "spiffe://td.example:a:80/web", allow)
	one("a percent sign", "spiffe://td.example%25/web", nameConstraints(excluded(uri("td.example"))))
	two := nameConstraints(permitted(uri("a.example"), uri("td.example")), excluded(uri("b.example")))
	one("several, the second permits", "spiffe://td.example/web", two)
	one("several, the last excludes", "spiffe://b.example/web", two)
	one("permitted and excluded below", "spiffe://x.td.example/web",
		nameConstraints(permitted(uri("td.example")), excluded(uri("x.td.example"))))
	one("a constraint that is an address", "spiffe://td.example/web", nameConstraints(permitted(uri("10.0.0.1"))))
	one("a constraint with a dot at its end", "spiffe://td.example/web", nameConstraints(permitted(uri("td.example."))))
	one("a constraint with two dots", "spiffe://td.example/web", nameConstraints(permitted(uri("td..example"))))
	one("a constraint of a dot", "spiffe://td.example/web", nameConstraints(permitted(uri("."))))
	one("a constraint with a scheme", "spiffe://td.example/web", nameConstraints(permitted(uri("spiffe://td.example"))))
	constrained(g, "two URIs, one is not permitted", allow, svid, uri("spiffe://other.example/web"))
	constrained(g, "constraints of a URI, and no SAN", allow)
	constrained(g, "constraints of a URI, and a DNS name", allow, dns("other.example"))
	nested(g, svid)
}

// nested has constraints at more than one place.
func nested(g *Group, svid []byte) {
	r := root("root", with(nameConstraints(permitted(uri("example")))))
	narrow := r.subordinate("narrow", with(nameConstraints(permitted(uri("td.example")))))
	wide := r.subordinate("wide", with(nameConstraints(permitted(uri("other")))))
	g.row("narrower below", narrow.leaf(names(svid)), list(narrow), r)
	g.row("elsewhere below", wide.leaf(names(svid)), list(wide), r)
	g.row("wider below", wide.leaf(uris("spiffe://other/web")), list(wide), r)
	own := r.subordinate("own", only(ca(), san(uri("spiffe://ca.other/"))))
	g.row("the CA's own name is not permitted by the root", own.leaf(names(svid)), list(own), r)
	own = root("root").subordinate("own", only(ca(), san(uri("spiffe://other/")), nameConstraints(permitted(uri("td.example")))))
	g.row("the CA's own name is not permitted by itself", own.leaf(names(svid)), list(own), root("root"))
	both := root("root").subordinate("narrow", keyed(ed("ca narrow")), with(nameConstraints(excluded(uri("td.example")))))
	g.row("two ways, one of them constrained", narrow.leaf(names(svid)), list(both, narrow), r, root("root"))
	inLeaf := root("root").leaf(only(san(svid), nameConstraints(excluded(uri("td.example")))))
	g.row("constraints in the leaf", inLeaf, none, root("root"))
}

func dnsConstraints(g *Group) {
	svid := uri("spiffe://td.example/web")
	for _, text := range []string{"example.com", ".example.com", "EXAMPLE.com", "other.com", "ample.com", "", "host.example.com", "a.host.example.com"} {
		for _, host := range []string{"host.example.com", "*.example.com", "example.com"} {
			r := root("root")
			allow := r.subordinate("ca", with(nameConstraints(permitted(dns(text)))))
			deny := r.subordinate("ca", with(nameConstraints(excluded(dns(text))).crit()))
			g.row(fmt.Sprintf("permitted %q, %q", text, host), allow.leaf(names(dns(host))), list(allow), r)
			g.row(fmt.Sprintf("excluded %q, %q", text, host), deny.leaf(names(dns(host))), list(deny), r)
		}
	}
	allow := nameConstraints(permitted(dns("example.com")))
	constrained(g, "constraints of DNS names, and an SVID", allow.crit(), svid)
	constrained(g, "an SVID with a DNS name that is not permitted", allow, svid, dns("web.example.org"))
	constrained(g, "an SVID with a DNS name that is permitted", allow, svid, dns("web.example.com"))
	constrained(g, "a DNS name with a dot at its end", allow, dns("web.example.com."))
	constrained(g, "an empty DNS name", allow, dns(""))
	constrained(g, "a DNS name with a blank", allow, dns("web example.com"))
}

func otherConstraints(g *Group) {
	svid := uri("spiffe://td.example/web")
	private := ip(10, 0, 0, 0, 255, 0, 0, 0)
	constrained(g, "an address within", nameConstraints(permitted(private)), ip(10, 1, 2, 3))
	constrained(g, "an address outside", nameConstraints(permitted(private)), ip(11, 1, 2, 3))
	constrained(g, "an address that is excluded", nameConstraints(excluded(private)), ip(10, 1, 2, 3))
	six := append([]byte{0xfd}, make([]byte, 15)...)
	net6 := ip(append(append([]byte{}, six...), append([]byte{0xff}, make([]byte, 15)...)...)...)
	constrained(g, "an IPv6 address within", nameConstraints(permitted(net6)), ip(six...))
	constrained(g, "an IPv6 address, IPv4 permitted", nameConstraints(permitted(private)), ip(six...))
	constrained(g, "an IPv4 address, IPv6 excluded", nameConstraints(excluded(net6)), ip(10, 1, 2, 3))
	ipv4in6 := []byte{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 1, 2, 3}
	constrained(g, "a mapped IPv4 address", nameConstraints(permitted(private)), ip(ipv4in6...))
	constrained(g, "a mask with holes", nameConstraints(permitted(ip(10, 0, 0, 0, 255, 0, 255, 0))), svid)
	constrained(g, "a network of three bytes", nameConstraints(permitted(ip(10, 0, 0))), svid)
	for _, text := range []string{"example.com", ".example.com", "user@example.com", "User@example.com", "user@EXAMPLE.com", "other@example.com", "not an address@"} {
		constrained(g, fmt.Sprintf("email permitted %q", text), nameConstraints(permitted(email(text))), email("user@example.com"))
		constrained(g, fmt.Sprintf("email excluded %q", text), nameConstraints(excluded(email(text))), email("user@example.com"))
	}
	constrained(g, "an email address without a domain", nameConstraints(permitted(email("example.com"))), email("user"))
	constrained(g, "an email address in quotes", nameConstraints(permitted(email("example.com"))), email("\"a b\\\"\"@example.com"))
	constrained(g, "an email address with two dots", nameConstraints(permitted(email("example.com"))), email("a..b@example.com"))
	constrained(g, "an email address that cannot be read, URIs constrained", nameConstraints(permitted(uri("td.example"))), email("user"))
	constrained(g, "directory names", nameConstraints(permitted(directory(name("leaf")))), svid)
	constrained(g, "directory names, critical", nameConstraints(permitted(directory(name("leaf")))).crit(), svid)
	constrained(g, "directory names and URIs, critical", nameConstraints(permitted(directory(name("leaf")), uri("td.example"))).crit(), svid)
	constrained(g, "empty constraints", nameConstraints(), svid)
	constrained(g, "empty lists of constraints", nameConstraints(permitted(), excluded()), svid)
	constrained(g, "an empty list of permitted names, and an excluded name", nameConstraints(permitted(), excluded(uri("other"))), svid)
	constrained(g, "something behind the lists", nameConstraints(permitted(uri("td.example")), octets()), svid)
	distance := sequence(uri("td.example"), tlv(0x80, []byte{1}))
	constrained(g, "a minimum distance", nameConstraints(tlv(0xa0, distance)), svid)
}
