// Tokens, and what SPIRE's agent says of them: the table that finial's own rules are held against.
//
// Makes the table anew (from tests/peers/go/tokens, a module of its own, because SPIRE wants other versions than the peers):
//
//	go run . > ../../../../identity/testdata/tokens.json
//
// Judges the tokens of a table anew, with the SPIRE at hand, and prints it with these verdicts:
//
//	go run . FILE
package main

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log"
	"math/big"
	"os"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/spire/pkg/common/jwtsvid"
)

// Table is what is checked in.
type Table struct {
	Keys []Key `json:"keys"`
	Rows []Row `json:"rows"`
}

// Key is a JWT authority of td.example.
type Key struct {
	ID   string `json:"id"`
	SPKI []byte `json:"spki"`
}

// Row is a token, and the claims of it or the reason why there are none.
type Row struct {
	Name     string `json:"name"`
	Token    string `json:"token"`
	Audience string `json:"audience"`
	Reason   string `json:"reason,omitempty"`
	ID       string `json:"id,omitempty"`
	// The claims are JSON in a text, because some are nested deeper than readers of the table go.
	Claims string `json:"claims,omitempty"`
}

const good = `{"aud":"a","exp":4102444800,"iat":1,"sub":"spiffe://td.example/web"}`

func main() {
	log.SetFlags(0)
	table := &Table{}
	if len(os.Args) > 1 {
		content, err := os.ReadFile(os.Args[1])
		must(err)
		must(json.Unmarshal(content, table))
	} else {
		fill(table)
	}
	keys := map[string]crypto.PublicKey{}
	for _, key := range table.Keys {
		public, err := x509.ParsePKIXPublicKey(key.SPKI)
		must(err)
		keys[key.ID] = public
	}
	store := jwtsvid.NewKeyStore(map[spiffeid.TrustDomain]map[string]crypto.PublicKey{
		spiffeid.RequireTrustDomainFromString("td.example"): keys,
	})
	for at := range table.Rows {
		row := &table.Rows[at]
		id, claims, err := jwtsvid.ValidateToken(context.Background(), row.Token, store, []string{row.Audience})
		row.Reason, row.ID, row.Claims = "", "", ""
		if err != nil {
			row.Reason = err.Error()
		} else {
			text, err := json.Marshal(claims)
			must(err)
			row.ID, row.Claims = id.String(), string(text)
		}
	}
	print(table)
}

// The private keys by their IDs, which are those of the table.
type signers map[string]crypto.Signer

func fill(table *Table) {
	signers := signers{}
	add := func(id string, key crypto.Signer, err error) {
		must(err)
		spki, err := x509.MarshalPKIXPublicKey(key.Public())
		must(err)
		signers[id] = key
		table.Keys = append(table.Keys, Key{ID: id, SPKI: spki})
	}
	for id, curve := range map[string]elliptic.Curve{"p224": elliptic.P224(), "p256": elliptic.P256(), "p384": elliptic.P384(), "p521": elliptic.P521()} {
		key, err := ecdsa.GenerateKey(curve, rand.Reader)
		add(id, key, err)
	}
	for id, bits := range map[string]int{"rsa1024": 1024, "rsa2048": 2048, "rsa3072": 3072} {
		key, err := rsa.GenerateKey(rand.Reader, bits)
		add(id, key, err)
	}
	_, key, err := ed25519.GenerateKey(rand.Reader)
	add("ed25519", key, err)

	row := func(name, token string) {
		table.Rows = append(table.Rows, Row{Name: name, Token: token, Audience: "a"})
	}
	header := func(alg, kid string) string { return fmt.Sprintf(`{"alg":%q,"kid":%q,"typ":"JWT"}`, alg, kid) }

	for _, pair := range []string{
		"ES256 p256", "ES384 p384", "ES512 p521", "RS256 rsa2048", "RS384 rsa2048", "RS512 rsa3072", "PS256 rsa2048",
		"PS384 rsa3072", "PS512 rsa2048", "RS256 rsa1024", "RS384 rsa1024", "PS256 rsa1024", "ES256 p384", "ES512 p256", "ES256 p224",
		"ES256 rsa2048", "RS256 p256", "ES256 ed25519", "EdDSA ed25519", "HS256 p256", "none p256", "es256 p256",
	} {
		alg, kid, _ := strings.Cut(pair, " ")
		row(pair, signers.sign(alg, kid, header(alg, kid), good))
	}
	row("PSS with a short salt", signers.sign("PS256-short", "rsa2048", header("PS256", "rsa2048"), good))

	es256 := header("ES256", "p256")
	token := signers.sign("ES256", "p256", es256, good)
	parts := strings.Split(token, ".")
	join := func(parts ...string) string { return strings.Join(parts, ".") }
	for name, token := range map[string]string{
		"empty":                      "",
		"one part":                   parts[0],
		"two parts":                  join(parts[0], parts[1]),
		"four parts":                 token + ".x",
		"JSON serialization":         `{"payload":"` + parts[1] + `","protected":"` + parts[0] + `","signature":"` + parts[2] + `"}`,
		"a space before":             " " + token,
		"a line break after":         token + "\n",
		"a line break in the header": join(parts[0][:7]+"\r\n"+parts[0][7:], parts[1], parts[2]),
		"padding":                    join(parts[0], parts[1], parts[2]+"="),
		"a plus sign":                join(parts[0], parts[1]+"+", parts[2]),
		"one digit too many":         join(parts[0], parts[1], "AAAAA"),
		"not ASCII":                  join(parts[0], "é", parts[2]),
		"no signature":               join(parts[0], parts[1], ""),
		"no payload":                 join(parts[0], "", parts[2]),
		"no header":                  join("", parts[1], parts[2]),
		"another signature":          join(parts[0], parts[1], strings.Split(signers.sign("ES256", "p256", es256, "{}"), ".")[2]),
		"a longer signature":         token + "AAAA",
	} {
		row(name, token)
	}
	for _, head := range []string{
		`null`, `[]`, `7`, `"x"`, `{`, `{}`, `{"kid":"p256"}`, `{"alg":"ES256"}`, `{"alg":"ES256","kid":""}`, `{"alg":"ES256","kid":null}`,
		`{"alg":"ES256","kid":7}`, `{"alg":["ES256"],"kid":"p256"}`, `{"alg":null,"kid":"p256"}`, `{"alg":"ES256","kid":"nobody"}`,
		`{"alg":"ES256","kid":"p384"}`, `{"alg":"ES256","kid":"p256","kid":"p256"}`, `{"alg":"ES256","kid":"p256","x":{"y":1,"y":1}}`,
		`{"ALG":"ES256","KID":"p256"}`, `{"alg":"ES256","kid":"p256","crit":["exp"],"exp":1}`, `{"alg":"ES256","kid":"p256","crit":[]}`,
		`{"alg":"ES256","kid":"p256","crit":null}`, `{"alg":"ES256","kid":"p256","crit":["b64"]}`, `{"alg":"ES256","kid":"p256","crit":["b64"],"b64":true}`,
		`{"alg":"ES256","kid":"p256","b64":7}`, `{"alg":"ES256","kid":"p256","nonce":"x"}`, `{"alg":"ES256","kid":"p256","nonce":7}`,
		`{"alg":"ES256","kid":"p256","jwk":7}`, `{"alg":"ES256","kid":"p256","jwk":null}`, `{"alg":"ES256","kid":"p256","x5c":7}`, `{"alg":"ES256","kid":"p256","typ":7}`,
		`{"alg":"ES256","kid":"p256"} `, `{"alg":"ES256","kid":"p256"}x`,
	} {
		row("header "+head, signers.sign("ES256", "p256", head, good))
	}
	unencoded := `{"alg":"ES256","kid":"p256","b64":false,"crit":["b64"]}`
	row("payload not encoded", signers.sign("ES256-b64", "p256", unencoded, good))
	row("payload encoded though it says not", signers.sign("ES256", "p256", unencoded, good))

	for _, claims := range []string{
		``, `null`, `[]`, `7`, `"x"`, `true`, `{`, `{}`, good + " ", good + "x", `{"sub":"spiffe://td.example/web"}`, `{"exp":4102444800}`,
		with(`"sub":null`), with(`"sub":7`), with(`"sub":""`), with(`"sub":["spiffe://td.example/web"]`), with(`"sub":"web"`),
		with(`"sub":"http://td.example/web"`), with(`"sub":"spiffe://"`), with(`"sub":"spiffe:///web"`), with(`"sub":"spiffe://TD.example/web"`),
		with(`"sub":"spiffe://td.example"`), with(`"sub":"spiffe://td.example/"`), with(`"sub":"spiffe://td.example//web"`),
		with(`"sub":"spiffe://td.example/../web"`), with(`"sub":"spiffe://td.example/w%20b"`), with(`"sub":"spiffe://td.example:80/web"`),
		with(`"sub":"spiffe://other.example/web"`), with(`"sub":"\u0073piffe://td.example/web"`), with(`"sub":"spiffe://td.example/web","sub":"spiffe://td.example/web"`),
		with(`"exp":null`), with(`"exp":"4102444800"`), with(`"exp":true`), with(`"exp":{}`), with(`"exp":0`), with(`"exp":-1`), with(`"exp":1e30`),
		with(`"exp":-1e30`), with(`"exp":9223372036854775807`), with(`"exp":9223371974719179007`), with(`"exp":9223371974719178000`), with(`"exp":4102444800.9`), with(`"exp":4.1024448E9`), with(`"exp":1e400`),
		with(`"nbf":null`), with(`"nbf":7`), with(`"nbf":4102444800`), with(`"nbf":1e30`), with(`"nbf":"7"`), with(`"iat":4102444800`), with(`"iat":1e30`), with(`"iat":[]`), with(`"iat":-1e30`),
		with(`"aud":null`), with(`"aud":7`), with(`"aud":""`), with(`"aud":[]`), with(`"aud":["b"]`), with(`"aud":["b","c \" d"]`), with(`"aud":["a"]`), with(`"aud":["b","a"]`),
		with(`"aud":["a",7]`), with(`"aud":["a",null]`), with(`"aud":"A"`), with(`"aud":{"a":1}`), with(`"iss":7`), with(`"jti":7`), with(`"iss":"<&>"`),
		with(`"x":{"y":[1,2.5,-0,1e2,0.1,18446744073709551616,9007199254740993,1.7976931348623157e308,5e-324,2.2250738585072011e-308,123456789.123456789]}`), with(`"x":null`), with(`"x":"é\u0000\ud83d\ude00"`),
		with(`"x":"\ud800"`), with("\"x\":\"\xff\""), with(`"x":{"y":1,"y":2}`), with(`"X":1,"x":2`), with(`"x":1e400`), with(`"x":` + strings.Repeat("[", 126) + strings.Repeat("]", 126)),
		with(`"x":` + strings.Repeat("[", 200) + strings.Repeat("]", 200)),
	} {
		name := claims
		if len(name) > 200 {
			name = fmt.Sprintf("%d bytes", len(name))
		}
		row("claims "+strings.ToValidUTF8(name, "?"), signers.sign("ES256", "p256", es256, claims))
	}
	table.Rows = append(table.Rows, Row{Name: "another audience", Token: token, Audience: "b"}, Row{Name: "no audience", Token: token, Audience: ""})
}

// with is the good claims with one of them replaced, or with one more.
func with(claim string) string {
	claims := map[string]string{"aud": `"aud":"a"`, "exp": `"exp":4102444800`, "iat": `"iat":1`, "sub": `"sub":"spiffe://td.example/web"`}
	delete(claims, strings.Split(claim, `"`)[1])
	text := "{"
	for _, name := range []string{"aud", "exp", "iat", "sub"} {
		if kept, ok := claims[name]; ok {
			text += kept + ","
		}
	}
	return text + claim + "}"
}

// sign makes a token by hand, because go-jose makes no wrong ones.
func (signers signers) sign(alg, kid, header, claims string) string {
	encode := base64.RawURLEncoding.EncodeToString
	head := encode([]byte(header)) + "."
	message := head + encode([]byte(claims))
	if strings.HasSuffix(alg, "-b64") {
		message = head + claims
	}
	return head + encode([]byte(claims)) + "." + encode(signature(alg, signers[kid], []byte(message)))
}

func signature(alg string, signer crypto.Signer, message []byte) []byte {
	hash := crypto.SHA256
	switch {
	case strings.Contains(alg, "384"):
		hash = crypto.SHA384
	case strings.Contains(alg, "512"):
		hash = crypto.SHA512
	}
	hasher := hash.New()
	hasher.Write(message)
	digest := hasher.Sum(nil)
	switch key := signer.(type) {
	case *ecdsa.PrivateKey:
		r, s, err := ecdsa.Sign(rand.Reader, key, digest)
		must(err)
		size := map[crypto.Hash]int{crypto.SHA256: 32, crypto.SHA384: 48, crypto.SHA512: 66}[hash]
		return append(fixed(r, size), fixed(s, size)...)
	case *rsa.PrivateKey:
		if strings.HasPrefix(alg, "PS") {
			salt := rsa.PSSSaltLengthEqualsHash
			if alg == "PS256-short" {
				salt = 7
			}
			signed, err := rsa.SignPSS(rand.Reader, key, hash, digest, &rsa.PSSOptions{SaltLength: salt})
			must(err)
			return signed
		}
		signed, err := rsa.SignPKCS1v15(rand.Reader, key, hash, digest)
		must(err)
		return signed
	case ed25519.PrivateKey:
		return ed25519.Sign(key, message)
	}
	return nil
}

// fixed is the number in so many bytes, or in more if it does not fit.
func fixed(number *big.Int, size int) []byte {
	if bytes := number.Bytes(); len(bytes) > size {
		return bytes
	}
	return number.FillBytes(make([]byte, size))
}

// print writes one row on each line, so that a change of the table can be read.
func print(table *Table) {
	fmt.Println("{\"keys\": [")
	lines(len(table.Keys), func(at int) any { return table.Keys[at] })
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
