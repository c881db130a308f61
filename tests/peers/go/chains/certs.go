package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	_ "crypto/md5"
	"crypto/rand"
	"crypto/rsa"
	_ "crypto/sha1"
	"crypto/sha256"
	_ "crypto/sha512"
	"crypto/x509"
	"log"
	"os"
	"slices"
	"time"
)

// Cert is a certificate with the key that is in it.
type Cert struct {
	der  []byte
	spec *Spec
}

// Spec is what a certificate is made of.
type Spec struct {
	version        byte
	serial         []byte
	subject        []byte
	issuer         []byte
	from, until    []byte
	key            crypto.Signer
	spki           []byte
	signer         crypto.Signer
	algorithm      Algorithm
	outerAlgorithm []byte
	extensions     []Ext
	spoilSignature bool
	trailing       []byte
}

// Option changes what a certificate is made of.
type Option func(*Spec)

func with(extensions ...Ext) Option {
	return func(s *Spec) { s.extensions = append(s.extensions, extensions...) }
}
func only(extensions ...Ext) Option     { return func(s *Spec) { s.extensions = extensions } }
func keyed(key crypto.Signer) Option    { return func(s *Spec) { s.key = key } }
func signedAs(a Algorithm) Option       { return func(s *Spec) { s.algorithm = a } }
func called(subject []byte) Option      { return func(s *Spec) { s.subject = subject } }
func issuedBy(name []byte) Option       { return func(s *Spec) { s.issuer = name } }
func version(v byte) Option             { return func(s *Spec) { s.version = v } }
func serial(content ...byte) Option     { return func(s *Spec) { s.serial = content } }
func since(t time.Time) Option          { return func(s *Spec) { s.from = moment(t) } }
func until(t time.Time) Option          { return func(s *Spec) { s.until = moment(t) } }
func alter(change func(s *Spec)) Option { return change }
func uris(texts ...string) Option       { return only(san(mapped(texts, uri)...)) }
func names(list ...[]byte) Option       { return only(san(list...)) }
func mapped(texts []string, f func(string) []byte) [][]byte {
	list := [][]byte{}
	for _, text := range texts {
		list = append(list, f(text))
	}
	return list
}

// root is self-signed and a CA.
func root(cn string, options ...Option) *Cert {
	base := &Spec{
		version: 3, serial: []byte{1}, subject: name(cn), key: ed("root " + cn),
		from: moment(now.AddDate(-5, 0, 0)), until: moment(now.AddDate(10, 0, 0)), extensions: []Ext{ca()},
	}
	return base.make(nil, options)
}

// subordinate is a CA that another has signed.
func (c *Cert) subordinate(cn string, options ...Option) *Cert {
	base := &Spec{
		version: 3, serial: []byte{2}, subject: name(cn), issuer: c.spec.subject, key: ed("ca " + cn),
		algorithm: c.spec.usual(), extensions: []Ext{ca()},
		from: moment(now.AddDate(-1, 0, 0)), until: moment(now.AddDate(1, 0, 0)),
	}
	return base.make(c, options)
}

// leaf is an X.509-SVID.
func (c *Cert) leaf(options ...Option) *Cert {
	base := &Spec{
		version: 3, serial: []byte{3}, subject: name("leaf"), issuer: c.spec.subject, key: ed("leaf"),
		algorithm: c.spec.usual(), extensions: []Ext{san(uri("spiffe://td.example/web"))},
		from: moment(now.Add(-time.Hour)), until: moment(now.Add(time.Hour)),
	}
	return base.make(c, options)
}

func (s *Spec) make(parent *Cert, options []Option) *Cert {
	for _, option := range options {
		option(s)
	}
	if parent == nil {
		s.signer = s.key
		if s.issuer == nil {
			s.issuer = s.subject
		}
	} else if s.signer == nil {
		s.signer = parent.spec.key
	}
	if s.algorithm.identifier == nil {
		s.algorithm = s.usual()
	}
	inner := s.algorithm.identifier
	outer := s.outerAlgorithm
	if outer == nil {
		outer = inner
	}
	if s.spki == nil {
		spki, err := x509.MarshalPKIXPublicKey(s.key.Public())
		must(err)
		s.spki = spki
	}
	tbs := s.tbs(inner)
	signature := s.algorithm.sign(s.signer, tbs)
	if s.spoilSignature {
		signature[len(signature)-1] ^= 1
	}
	der := sequence(tbs, outer, bits(0, signature...))
	return &Cert{slices.Concat(der, s.trailing), s}
}

func (s *Spec) tbs(algorithm []byte) []byte {
	parts := [][]byte{}
	if s.version != 1 {
		parts = append(parts, tlv(0xa0, integer(s.version-1)))
	}
	validity := sequence(s.from, s.until)
	parts = append(parts, integer(s.serial...), algorithm, s.issuer, validity, s.subject, s.spki)
	if s.version >= 3 && len(s.extensions) > 0 {
		list := [][]byte{}
		for _, extension := range s.extensions {
			list = append(list, extension.der())
		}
		parts = append(parts, tlv(0xa3, sequence(list...)))
	}
	return sequence(parts...)
}

// usual is the algorithm that fits a key.
func (s *Spec) usual() Algorithm {
	switch s.key.(type) {
	case *rsa.PrivateKey:
		return rsaSHA256
	case ed25519.PrivateKey:
		return pureEd25519
	}
	return ecdsaSHA256
}

// Algorithm is how a certificate is signed.
type Algorithm struct {
	identifier []byte
	hash       crypto.Hash
	pss        *rsa.PSSOptions
}

var (
	ecdsaSHA1   = Algorithm{sequence(oid(1, 2, 840, 10045, 4, 1)), crypto.SHA1, nil}
	ecdsaSHA256 = Algorithm{sequence(oid(1, 2, 840, 10045, 4, 3, 2)), crypto.SHA256, nil}
	ecdsaSHA384 = Algorithm{sequence(oid(1, 2, 840, 10045, 4, 3, 3)), crypto.SHA384, nil}
	ecdsaSHA512 = Algorithm{sequence(oid(1, 2, 840, 10045, 4, 3, 4)), crypto.SHA512, nil}
	rsaMD5      = Algorithm{sequence(oid(1, 2, 840, 113549, 1, 1, 4), null), crypto.MD5, nil}
	rsaSHA1     = Algorithm{sequence(oid(1, 2, 840, 113549, 1, 1, 5), null), crypto.SHA1, nil}
	rsaSHA256   = Algorithm{sequence(oid(1, 2, 840, 113549, 1, 1, 11), null), crypto.SHA256, nil}
	rsaSHA384   = Algorithm{sequence(oid(1, 2, 840, 113549, 1, 1, 12), null), crypto.SHA384, nil}
	rsaSHA512   = Algorithm{sequence(oid(1, 2, 840, 113549, 1, 1, 13), null), crypto.SHA512, nil}
	pssSHA256   = pss(crypto.SHA256, 1, 32)
	pssSHA384   = pss(crypto.SHA384, 2, 48)
	pssSHA512   = pss(crypto.SHA512, 3, 64)
	pureEd25519 = Algorithm{sequence(oid(1, 3, 101, 112)), crypto.Hash(0), nil}
)

func pss(hash crypto.Hash, number int, salt byte) Algorithm {
	digest := sequence(oid(2, 16, 840, 1, 101, 3, 4, 2, number), null)
	mgf := sequence(oid(1, 2, 840, 113549, 1, 1, 8), digest)
	parameters := sequence(tlv(0xa0, digest), tlv(0xa1, mgf), tlv(0xa2, integer(salt)))
	identifier := sequence(oid(1, 2, 840, 113549, 1, 1, 10), parameters)
	return Algorithm{identifier, hash, &rsa.PSSOptions{SaltLength: int(salt)}}
}

func (a Algorithm) sign(key crypto.Signer, message []byte) []byte {
	if a.hash != 0 {
		hash := a.hash.New()
		hash.Write(message)
		message = hash.Sum(nil)
	}
	var options crypto.SignerOpts = a.hash
	if a.pss != nil {
		a.pss.Hash = a.hash
		options = a.pss
	}
	signature, err := key.Sign(rand.Reader, message, options)
	must(err)
	return signature
}

var keys = map[string]crypto.Signer{}

func ec(name string) crypto.Signer { return curve(name, elliptic.P256()) }

func curve(name string, curve elliptic.Curve) crypto.Signer {
	return kept(name, func() (crypto.Signer, error) { return ecdsa.GenerateKey(curve, rand.Reader) })
}

func rsaKey(size int) crypto.Signer {
	return kept(string(rune(size)), func() (crypto.Signer, error) {
		log.Printf("an RSA key of %d bits", size)
		if size < 1024 {
			// Go has a switch for what it refuses otherwise.
			must(os.Setenv("GODEBUG", "rsa1024min=0"))
		}
		return rsa.GenerateKey(rand.Reader, size)
	})
}

// ed is the key of most certificates: small, and the same in each table.
func ed(name string) crypto.Signer {
	seed := sha256.Sum256([]byte(name))
	return ed25519.NewKeyFromSeed(seed[:])
}

func kept(name string, generate func() (crypto.Signer, error)) crypto.Signer {
	if keys[name] == nil {
		key, err := generate()
		must(err)
		keys[name] = key
	}
	return keys[name]
}
