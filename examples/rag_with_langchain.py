# %% [markdown]
# # RAG with LangChain, a vector store and a reranker
#
# Qdrant finds passages by their embeddings, SmolLM2 reranks them, and the best become the context of an answer, all on
# this machine. It needs `langchain-classic`, `langchain-qdrant`, and the extras `dense`, `langchain` and `qdrant`.

# %%
from langchain_classic.retrievers import ContextualCompressionRetriever
from langchain_core.embeddings import Embeddings
from langchain_core.prompts import PromptTemplate
from langchain_core.runnables import RunnablePassthrough
from langchain_qdrant import QdrantVectorStore

from rerank.indexing.options import EncoderOptions
from rerank.indexing.text_encoder import load_text_encoder
from rerank.integrations.langchain import RerankerCompressor
from rerank.retrieval.base.model_folders import locate_retrieval_model

# Your own passages and question go here.
PASSAGES = [
    "Bread: knead the dough for ten minutes and let it rise in a warm place for an hour.",
    "Pancakes: the dough must not be kneaded for long, or pancakes get tough.",
    "Pizza: mix the dough in the evening and bake it the day after.",
    "Soup: cut leeks and potatoes, and let them simmer for half an hour.",
    "Rice: cook it in twice its volume of water, with the lid on, for fifteen minutes.",
]
QUESTION = "how long does bread dough have to rise"

# %% [markdown]
# The embedding model is all-MiniLM-L6-v2 (`rerank models pull all-minilm-l6-v2`), or any other `Embeddings`.


# %%
class MiniLm(Embeddings):
    """Embeddings of all-MiniLM-L6-v2."""

    def __init__(self) -> None:
        self.encoder = load_text_encoder(locate_retrieval_model("all-minilm-l6-v2"), EncoderOptions())

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Return one vector per passage."""
        vectors: list[list[float]] = self.encoder.passages(texts).tolist()
        return vectors

    def embed_query(self, text: str) -> list[float]:
        """Return the vector of a query."""
        vector: list[float] = self.encoder.queries([text])[0].tolist()
        return vector


# %% [markdown]
# Qdrant in this process; `path=` or `url=` in place of `location=` keeps the vectors.

# %%
store = QdrantVectorStore.from_texts(PASSAGES, MiniLm(), location=":memory:", collection_name="passages")
retriever = ContextualCompressionRetriever(
    base_retriever=store.as_retriever(search_kwargs={"k": 4}),
    base_compressor=RerankerCompressor(model="smollm2-135m", top_n=2),
)
for document in retriever.invoke(QUESTION):
    print(document.metadata["relevance_score"], document.page_content)

# %% [markdown]
# The chain ends with the prompt; append the chat model of your choice with `| model`.

# %%
template = PromptTemplate.from_template("Answer from these passages:\n{context}\n\nQuestion: {question}")
context = retriever | (lambda documents: "\n".join(document.page_content for document in documents))
chain = {"context": context, "question": RunnablePassthrough()} | template
print(chain.invoke(QUESTION).to_string())
