package main

import (
	"crypto/x509"
	"errors"
	"strings"
)

// judge says what crypto/x509 makes of a row, and with "svid" what go-spiffe's x509svid.Verify asks of a leaf besides.
func (t *Table) judge(row *Row) (verdict, text string) {
	leaf, err := x509.ParseCertificate(t.Certificates[row.Leaf])
	if err != nil {
		return "malformed", err.Error()
	}
	options := x509.VerifyOptions{
		Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool(),
		CurrentTime: row.At, KeyUsages: keyUsages[row.Usage],
	}
	for _, number := range row.Intermediates {
		intermediate, err := x509.ParseCertificate(t.Certificates[number])
		if err != nil {
			return "malformed", err.Error()
		}
		options.Intermediates.AddCert(intermediate)
	}
	for _, number := range row.Roots {
		// One that cannot be read is left out.
		if root, err := x509.ParseCertificate(t.Certificates[number]); err == nil {
			options.Roots.AddCert(root)
		}
	}
	if row.Usage == "svid" {
		if text := notAnSVID(leaf); text != "" {
			return "not an SVID", text
		}
	}
	if _, err = leaf.Verify(options); err != nil {
		return kind(err), err.Error()
	}
	return "accepted", ""
}

var keyUsages = map[string][]x509.ExtKeyUsage{
	"any":    {x509.ExtKeyUsageAny},
	"svid":   {x509.ExtKeyUsageAny},
	"server": {x509.ExtKeyUsageServerAuth},
	"client": {x509.ExtKeyUsageClientAuth},
	"either": {x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
}

// notAnSVID has the rules and words of go-spiffe v2.8.1, svid/x509svid/verify.go.
func notAnSVID(leaf *x509.Certificate) string {
	switch {
	case len(leaf.URIs) == 0:
		return "could not get leaf SPIFFE ID: certificate contains no URI SAN"
	case len(leaf.URIs) > 1:
		return "could not get leaf SPIFFE ID: certificate contains more than one URI SAN"
	case leaf.IsCA:
		return "leaf certificate with CA flag set to true"
	case leaf.KeyUsage&x509.KeyUsageCertSign > 0:
		return "leaf certificate with KeyCertSign key usage"
	case leaf.KeyUsage&x509.KeyUsageCRLSign > 0:
		return "leaf certificate with KeyCrlSign key usage"
	}
	return ""
}

func kind(err error) string {
	var invalid x509.CertificateInvalidError
	switch {
	case errors.As(err, &invalid):
		return reasons[invalid.Reason]
	case errors.As(err, &x509.UnknownAuthorityError{}):
		return "unknown authority"
	case errors.As(err, &x509.UnhandledCriticalExtension{}):
		return "critical extension"
	case strings.Contains(err.Error(), "signature check attempts limit"):
		return "signature limit"
	}
	return "other"
}

var reasons = map[x509.InvalidReason]string{
	x509.Expired:                    "expired",
	x509.NotAuthorizedToSign:        "not a CA",
	x509.TooManyIntermediates:       "path length",
	x509.CANotAuthorizedForThisName: "name constraint",
	x509.IncompatibleUsage:          "usage",
	x509.NoValidChains:              "no valid chains",
}
