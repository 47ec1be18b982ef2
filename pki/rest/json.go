package rest

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/mooringlib/mooring/pki"
	"github.com/mooringlib/mooring/pki/keystore"
)

// problem is the answer to a call that is refused. It is an error on its way.
type problem struct {
	// Code is for programs.
	Code string `json:"code"`
	// Message is one line for a person.
	Message string `json:"message"`
	// Field is the field that is wrong, the first of them when there are more.
	Field string `json:"field,omitempty"`
	// Errors names every bad field.
	Errors pki.FieldErrors `json:"errors,omitempty"`
	// Report holds the three checks of a certificate that was refused.
	Report *pki.Ingested `json:"report,omitempty"`

	status int
	retry  time.Duration
}

func (p *problem) Error() string { return p.Message }

// explain turns an error into an answer. What is not known to be for the caller
// stays here.
func explain(err error) (*problem, int) {
	var p *problem
	var fields pki.FieldErrors
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &p):
		return p, p.status
	case errors.As(err, &fields):
		return &problem{Code: "invalid_request", Message: fields.Error(), Field: fields[0].Field, Errors: fields}, http.StatusBadRequest
	case errors.As(err, &large):
		return &problem{Code: "too_large", Message: fmt.Sprintf("the body has more than %d bytes", large.Limit)}, http.StatusRequestEntityTooLarge
	case errors.Is(err, errUnauthorized):
		return &problem{Code: "unauthorized", Message: err.Error()}, http.StatusUnauthorized
	case errors.Is(err, pki.ErrExists):
		return &problem{Code: "exists", Message: err.Error(), Field: "name"}, http.StatusConflict
	case errors.Is(err, pki.ErrNotFound):
		return &problem{Code: "not_found", Message: err.Error(), Field: "name"}, http.StatusNotFound
	case errors.Is(err, keystore.ErrUnsupported):
		return &problem{Code: "unsupported_key", Message: "this device does not make such a key", Field: "algorithm"}, http.StatusBadRequest
	}
	return &problem{Code: "internal", Message: "the call failed on this device; its log says why"}, http.StatusInternalServerError
}

// decode reads the one JSON object of a body. open allows fields that are not
// known.
func decode(r *http.Request, v any, open bool) error {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return err
	}
	bad := func(format string, args ...any) error {
		return &problem{Code: "invalid_json", Message: fmt.Sprintf(format, args...), status: http.StatusBadRequest}
	}
	if len(bytes.TrimSpace(body)) == 0 {
		return bad("the body is empty; a JSON object is expected")
	}
	dec := json.NewDecoder(bytes.NewReader(escapeBreaks(body)))
	if !open {
		dec.DisallowUnknownFields()
	}
	if err := dec.Decode(v); err != nil {
		var kind *json.UnmarshalTypeError
		switch {
		case errors.As(err, &kind):
			// An embedded struct has no part in the JSON.
			field := strings.TrimPrefix(kind.Field, "Request.")
			return pki.FieldErrors{{Field: field, Text: fmt.Sprintf("it is a JSON %s, which is not expected here", kind.Value)}}
		case strings.HasPrefix(err.Error(), "json: unknown field "):
			field := strings.Trim(strings.TrimPrefix(err.Error(), "json: unknown field "), `"`)
			return pki.FieldErrors{{Field: field[:min(len(field), 80)], Text: "there is no such field"}}
		case strings.HasPrefix(err.Error(), "pki: "):
			return bad("a number is expected: %.120s", strings.TrimPrefix(err.Error(), "pki: "))
		}
		return bad("the body is not a JSON object: %.120s", err.Error())
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return bad("there is more after the JSON object")
	}
	return nil
}

// escapeBreaks escapes line breaks and tabs that stand inside JSON strings, as in
// a PEM text that was pasted between two quotes.
func escapeBreaks(body []byte) []byte {
	if !bytes.ContainsAny(body, "\n\r\t") {
		return body
	}
	out := make([]byte, 0, len(body)+64)
	inside, escaped := false, false
	for _, c := range body {
		switch {
		case !inside:
			inside = c == '"'
		case escaped:
			escaped = false
		case c == '\\':
			escaped = true
		case c == '"':
			inside = false
		case c == '\n':
			out = append(out, '\\', 'n')
			continue
		case c == '\r':
			out = append(out, '\\', 'r')
			continue
		case c == '\t':
			out = append(out, '\\', 't')
			continue
		}
		out = append(out, c)
	}
	return out
}

func encode(certs []*x509.Certificate) string {
	var b strings.Builder
	for _, c := range certs {
		// Writing to a builder does not fail.
		_ = pem.Encode(&b, &pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
	}
	return b.String()
}
