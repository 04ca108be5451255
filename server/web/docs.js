// The API's own page: Swagger UI, from this server. It sends the key that the search page was given.

import { storedKey } from "./key.js";

window.SwaggerUIBundle({
  url: new URL("openapi.json", document.baseURI).href,
  dom_id: "#swagger-ui",
  deepLinking: true,
  tryItOutEnabled: true,
  validatorUrl: null, // no badge: it would ask another host
  requestInterceptor: (request) => {
    if (storedKey()) request.headers.Authorization = `Bearer ${storedKey()}`;
    return request;
  },
});
